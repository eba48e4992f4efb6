#include "cli/simulation/load_simulation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <ctime>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>

#include "bench/planner/placement.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

using coordinator::no_expert;

double cpu_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

bool is_eplb(planner_kind kind) { return kind == planner_kind::eplb || kind == planner_kind::eplb_hierarchical; }

result<void> check_slots(const load_source& source, const simulated_cluster& cluster) {
  const auto& slots = cluster.node_slots;
  const auto total = std::accumulate(slots.begin(), slots.end(), std::uint64_t{0});
  for (std::size_t l = 0; l < source.layers.size(); ++l) {
    if (source.experts[l] <= total) continue;
    return fail(
        errc::invalid_request,
        fmt::format("layer {} has {} experts and all nodes together have {} slots; give at least one per expert",
                    source.layers[l], source.experts[l], total));
  }
  return {};
}

result<void> check_eplb(const load_source& source, const simulated_cluster& cluster, const planner_settings& planner) {
  const auto& slots = cluster.node_slots;
  if (!is_eplb(planner.kind)) return {};
  if (std::ranges::adjacent_find(slots, std::not_equal_to{}) != slots.end()) {
    return fail(errc::invalid_request,
                "EPLB needs nodes with equally many slots; choose a number of slots that the "
                "nodes divide, or another planner and no --compare");
  }
  for (auto experts : source.experts) {
    if (auto good = bench::check_eplb_shape(eplb_shape_of(planner, experts, slots)); !good) return good;
  }
  return {};
}

// Order matters; not against somebody who wants two inputs to look alike.
class running_digest {
 public:
  void add(std::uint64_t value) {
    value_ = (value_ ^ value) * 0x9E3779B97F4A7C15;
    value_ ^= value_ >> 32;
  }
  void add(double value) { add(std::bit_cast<std::uint64_t>(value)); }
  [[nodiscard]] std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_{0xCBF29CE484222325};
};

std::unique_ptr<placement_maker> make_maker(const load_source& source, const placing& how) {
  if (const auto* planner = std::get_if<planner_settings>(&how)) {
    return std::make_unique<planned_layers>(source.layers.size(), *planner);
  }
  return std::make_unique<policy_layers>(source.experts, std::get<simulated_policies>(how));
}

std::string name_of(const placing& how) {
  const auto* planner = std::get_if<planner_settings>(&how);
  if (planner == nullptr) return "policies";
  if (!is_eplb(planner->kind) || planner->eplb_every == 1) return to_string(planner->kind);
  return fmt::format("{} every {}", to_string(planner->kind), planner->eplb_every);
}

// One planner on its way through the steps.
class contender {
 public:
  contender(const load_source& source, const simulated_cluster& cluster, const placing& how)
      : cluster_{cluster}, maker_{make_maker(source, how)} {
    run_.name = name_of(how);
    run_.steps.reserve(source.steps);
  }

  void step(std::uint32_t number, const step_loads& known, const step_loads& loads, const present_nodes& nodes) {
    const auto before = maker_->held();
    auto& seen = run_.steps.emplace_back();
    seen.step = number;
    const double begin = cpu_ms();
    maker_->plan(index_, known, nodes);
    seen.plan_ms = cpu_ms() - begin;
    seen.nodes_away = nodes.away();
    measure(seen, before, loads, nodes);
    add_to_digest(seen);
    ++index_;
  }
  void keep_placement() { run_.steps.back().expert_of_slot = maker_->held(); }
  [[nodiscard]] simulated_run finish() {
    run_.digest = digest_.value();
    return std::move(run_);
  }

 private:
  void measure(simulated_step& seen, const std::vector<placement>& before, const step_loads& loads,
               const present_nodes& nodes) const {
    const auto num_layers = static_cast<double>(loads.size());
    const auto slots = nodes.slots();
    double served = 0, total = 0;
    std::uint64_t moves = 0, replicas = 0, wasted = 0;
    double masked = 0;
    for (std::size_t l = 0; l < loads.size(); ++l) {
      const auto& mask = maker_->mask(l);
      auto given = loads[l];
      const double masked_share = apply_mask(given, mask);
      const double layer_total = std::accumulate(given.begin(), given.end(), 0.0);
      masked += layer_total * masked_share;
      const auto held = nodes.gather(maker_->held()[l]);
      const double imbalance = bench::imbalance(given, held, slots);
      seen.imbalance_mean += imbalance / num_layers;
      seen.imbalance_max = std::max(seen.imbalance_max, imbalance);
      wasted += bench::count_wasted(held, slots);
      replicas += held.size() - static_cast<std::uint64_t>(std::ranges::count(held, no_expert));
      if (!before[l].empty()) moves += bench::count_moves(before[l], maker_->held()[l], nodes.all_slots());
      total += layer_total;
      served += served_load(given, held);
      seen.cold_experts += count_cold(given, mask);
    }
    seen.masked_share = total > 0 ? masked / total : 0;
    seen.wasted_slots_per_layer = static_cast<double>(wasted) / num_layers;
    seen.moves_per_layer = static_cast<double>(moves) / num_layers;
    seen.moved_bytes = moves * cluster_.expert_bytes;
    seen.resident_bytes = replicas * cluster_.expert_bytes;
    seen.unserved_share = total > 0 ? std::max(0.0, 1 - served / total) : 0;
  }
  static double served_load(const std::vector<double>& loads, const placement& held) {
    std::vector<bool> is_held(loads.size());
    for (auto e : held) {
      if (e != no_expert) is_held[e] = true;
    }
    double served = 0;
    for (std::size_t e = 0; e < loads.size(); ++e) served += is_held[e] ? loads[e] : 0;
    return served;
  }
  // Of those that take part.
  static std::uint64_t count_cold(const std::vector<double>& loads, const std::vector<bool>& mask) {
    const double fair = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(loads.size());
    std::uint64_t cold = 0;
    for (std::size_t e = 0; e < loads.size(); ++e) {
      cold += (mask.empty() || mask[e]) && loads[e] < limits::cold_share * fair ? 1 : 0;
    }
    return cold;
  }
  void add_to_digest(const simulated_step& seen) {
    for (const auto& layer : maker_->held()) {
      for (auto e : layer) digest_.add(std::uint64_t{e});
    }
    for (double figure : {seen.imbalance_mean, seen.imbalance_max, seen.moves_per_layer, seen.wasted_slots_per_layer,
                          seen.unserved_share, seen.masked_share}) {
      digest_.add(figure);
    }
    for (std::uint64_t figure : {std::uint64_t{seen.nodes_away}, seen.cold_experts, seen.resident_bytes}) {
      digest_.add(figure);
    }
  }

  const simulated_cluster& cluster_;
  std::unique_ptr<placement_maker> maker_;
  std::uint32_t index_{};
  running_digest digest_;
  simulated_run run_;
};

}  // namespace

result<std::vector<simulated_run>> simulate_loads(const load_source& source, const simulated_cluster& cluster,
                                                  std::span<const placing> who, bool with_placement) {
  std::vector<contender> contenders;
  if (auto good = check_slots(source, cluster); !good) return fail(good.error());
  for (const auto& how : who) {
    const auto* planner = std::get_if<planner_settings>(&how);
    const auto good = planner != nullptr ? check_eplb(source, cluster, *planner) : result<void>{};
    if (!good) return fail(good.error());
    contenders.emplace_back(source, cluster, how);
  }
  present_nodes nodes{cluster.node_slots, cluster.zones};
  std::uint32_t index = 0;
  step_loads known;
  source.each_step([&](std::uint32_t step, const step_loads& loads) {
    nodes.set(cluster.calendar.present(static_cast<std::uint32_t>(cluster.node_slots.size()), index++));
    if (known.empty() || !cluster.hindsight) known = loads;
    for (auto& one : contenders) {
      one.step(step, known, loads, nodes);
      if (with_placement) one.keep_placement();
    }
    known = loads;
  });
  std::vector<simulated_run> runs;
  for (auto& one : contenders) runs.push_back(one.finish());
  return runs;
}

}  // namespace troupe::cli
