#include "cli/simulation/simulation_report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

double rounded(double value) { return std::round(value * 1e6) / 1e6; }

}  // namespace

run_summary summarize(const simulated_run& run, std::size_t layers) {
  run_summary all;
  const auto steps = static_cast<double>(run.steps.size());
  for (const auto& step : run.steps) {
    all.imbalance_mean += step.imbalance_mean / steps;
    all.imbalance_worst = std::max(all.imbalance_worst, step.imbalance_max);
    all.moves += static_cast<std::uint64_t>(std::llround(step.moves_per_layer * static_cast<double>(layers)));
    all.moved_bytes += step.moved_bytes;
    all.resident_bytes_end = step.resident_bytes;
    all.resident_bytes_max = std::max(all.resident_bytes_max, step.resident_bytes);
    all.cold_experts += static_cast<double>(step.cold_experts) / steps;
    all.masked_share += step.masked_share / steps;
    all.unserved_share_worst = std::max(all.unserved_share_worst, step.unserved_share);
    all.plan_ms += step.plan_ms / steps;
  }
  return all;
}

std::string digest_text(std::uint64_t digest) { return fmt::format("{:016x}", digest); }

json step_document(const simulated_step& step) {
  return {{"step", step.step},
          {"imbalance_mean", rounded(step.imbalance_mean)},
          {"imbalance_max", rounded(step.imbalance_max)},
          {"moves_per_layer", rounded(step.moves_per_layer)},
          {"wasted_slots_per_layer", rounded(step.wasted_slots_per_layer)},
          {"plan_ms", rounded(step.plan_ms)},
          {"moved_bytes", step.moved_bytes},
          {"resident_bytes", step.resident_bytes},
          {"cold_experts", step.cold_experts},
          {"masked_share", rounded(step.masked_share)},
          {"nodes_away", step.nodes_away},
          {"unserved_share", rounded(step.unserved_share)}};
}

json summary_document(const simulated_run& run, std::size_t layers) {
  const auto all = summarize(run, layers);
  return {{"planner", run.name},
          {"steps", run.steps.size()},
          {"imbalance_mean", rounded(all.imbalance_mean)},
          {"imbalance_worst", rounded(all.imbalance_worst)},
          {"moves", all.moves},
          {"moved_bytes", all.moved_bytes},
          {"resident_bytes_end", all.resident_bytes_end},
          {"resident_bytes_max", all.resident_bytes_max},
          {"cold_experts", rounded(all.cold_experts)},
          {"masked_share", rounded(all.masked_share)},
          {"unserved_share_worst", rounded(all.unserved_share_worst)},
          {"plan_ms", rounded(all.plan_ms)},
          {"digest", digest_text(run.digest)}};
}

json placement_document(const simulated_step& step, std::span<const std::uint32_t> layers,
                        std::span<const std::uint32_t> node_slots) {
  json documents = json::array();
  for (std::size_t l = 0; l < layers.size(); ++l) {
    json nodes = json::array();
    auto slot = step.expert_of_slot[l].begin();
    for (auto count : node_slots) {
      json experts = json::array();
      for (const auto end = slot + count; slot != end; ++slot) {
        if (*slot != coordinator::no_expert) experts.push_back(*slot);
      }
      nodes.push_back(std::move(experts));
    }
    documents.push_back({{"layer", layers[l]}, {"nodes", std::move(nodes)}});
  }
  return documents;
}

std::string csv_text(std::span<const simulated_run> runs) {
  std::string csv =
      "planner,step,imbalance_mean,imbalance_max,moves_per_layer,wasted_slots_per_layer,moved_bytes,resident_bytes,"
      "cold_experts,masked_share,nodes_away,unserved_share\n";
  for (const auto& run : runs) {
    for (const auto& step : run.steps) {
      csv += fmt::format("{},{},{:.6f},{:.6f},{:.3f},{:.3f},{},{},{},{:.6f},{},{:.6f}\n", run.name, step.step,
                         step.imbalance_mean, step.imbalance_max, step.moves_per_layer, step.wasted_slots_per_layer,
                         step.moved_bytes, step.resident_bytes, step.cold_experts, step.masked_share, step.nodes_away,
                         step.unserved_share);
    }
  }
  return csv;
}

view step_view() {
  return {.items = "items",
          .columns = {{"STEP", "step", cell::count},
                      {"IMBALANCE MEAN", "imbalance_mean", cell::share},
                      {"MAX", "imbalance_max", cell::share},
                      {"MOVES PER LAYER", "moves_per_layer", cell::count},
                      {"WASTED SLOTS", "wasted_slots_per_layer", cell::count},
                      {"PLAN MS", "plan_ms", cell::count}},
          .name = "{step}"};
}

view summary_view() {
  return {.items = "items",
          .columns = {{"PLANNER", "planner"},
                      {"STEPS", "steps", cell::count},
                      {"IMBALANCE MEAN", "imbalance_mean", cell::share},
                      {"WORST", "imbalance_worst", cell::share},
                      {"MOVES", "moves", cell::count},
                      {"MOVED", "moved_bytes", cell::bytes},
                      {"RESIDENT", "resident_bytes_end", cell::bytes},
                      {"COLD EXPERTS", "cold_experts", cell::count},
                      {"MASKED", "masked_share", cell::share},
                      {"UNSERVED", "unserved_share_worst", cell::share},
                      {"PLAN MS", "plan_ms", cell::count},
                      {"DIGEST", "digest"}},
          .name = "{planner}"};
}

}  // namespace troupe::cli
