#include "coordinator/core/repacking.hpp"

#include <algorithm>
#include <map>
#include <optional>

#include "common/limits.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::coordinator {
namespace {

// One layer as the planner sees it: experts that are served, nodes that hold some of them, no free slot.
struct layer_slots {
  std::vector<std::uint32_t> experts;  // by the planner's number
  std::vector<double> rows;            // the same
  std::vector<load_node> nodes;
  std::vector<std::uint32_t> names;    // of the planner's nodes: indices into policy_input::nodes
  std::vector<std::uint32_t> present;  // per slot
};

std::optional<layer_slots> slots_of(const policy_input& input, const layer_load& layer) {
  layer_slots slots;
  std::uint64_t total = 0;
  for (const auto& expert : layer.experts) {
    if (expert.nodes.empty()) continue;
    slots.experts.push_back(expert.index);
    slots.rows.push_back(static_cast<double>(expert.rows));
    total += expert.rows;
  }
  if (layer.is_changing || total < limits::policy_rows_min) return std::nullopt;
  for (std::uint32_t n = 0; n < input.nodes.size(); ++n) {
    auto before = slots.present.size();
    for (std::uint32_t e = 0; e < slots.experts.size(); ++e) {
      const auto& holders = layer.experts[slots.experts[e]].nodes;
      if (std::ranges::find(holders, n) != holders.end()) slots.present.push_back(e);
    }
    auto count = static_cast<std::uint32_t>(slots.present.size() - before);
    if (count == 0) continue;
    slots.nodes.push_back({count, n, 1});
    slots.names.push_back(n);
  }
  if (slots.nodes.size() < 2) return std::nullopt;
  return slots;
}

struct layer_change {
  std::vector<apply_placement::placed_expert> experts;
  std::uint32_t moves{};
  double before{}, after{};
  [[nodiscard]] double gain() const { return before - after; }
};

std::optional<layer_change> change_of(const policy_input& input, const layer_load& layer, std::uint32_t moves_max) {
  auto slots = slots_of(input, layer);
  if (!slots || moves_max == 0) return std::nullopt;
  load_planner planner(slots->nodes, {.moves_max = moves_max});
  auto plan = planner.plan(slots->rows, slots->present);
  layer_change change{{}, static_cast<std::uint32_t>(plan.moves.size()), plan.imbalance_before, plan.imbalance_after};
  if (change.moves == 0 || change.gain() < limits::balance_gain_min) return std::nullopt;
  std::map<std::uint32_t, std::vector<std::uint32_t>> places;  // by expert, ascending
  std::size_t slot = 0;
  for (std::size_t n = 0; n < slots->nodes.size(); ++n) {
    for (std::uint32_t s = 0; s < slots->nodes[n].slots; ++s, ++slot) {
      auto e = plan.expert_of_slot[slot];
      if (e != no_expert) places[slots->experts[e]].push_back(slots->names[n]);
    }
  }
  for (const auto& [index, nodes] : places) {
    const auto& expert = layer.experts[index];
    auto had = expert.nodes;
    std::ranges::sort(had);
    if (had == nodes) continue;
    if (expert.is_fixed) return std::nullopt;
    apply_placement::placed_expert placed{{layer.id, index}, {}};
    for (auto n : nodes) placed.nodes.push_back(input.nodes[n].name);
    change.experts.push_back(std::move(placed));
  }
  return change;
}

}  // namespace

repacking plan_repacking(const policy_input& input, std::uint32_t moves_max) {
  std::vector<std::pair<double, const layer_load*>> gains;
  for (const auto& layer : input.layers) {
    if (auto change = change_of(input, layer, moves_max)) gains.emplace_back(change->gain(), &layer);
  }
  std::ranges::stable_sort(gains, std::ranges::greater{}, [](const auto& item) { return item.first; });
  repacking result;
  for (const auto& item : gains) {
    auto change = change_of(input, *item.second, moves_max - result.moves);
    if (!change) continue;
    std::ranges::move(change->experts, std::back_inserter(result.experts));
    result.moves += change->moves;
    ++result.layers;
    result.imbalance_before += change->before;
    result.imbalance_after += change->after;
  }
  if (result.layers > 0) {
    result.imbalance_before /= result.layers;
    result.imbalance_after /= result.layers;
  }
  return result;
}

}  // namespace troupe::coordinator
