#include "cli/load_simulation.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <numeric>

#include "bench/planner/eplb.hpp"
#include "bench/planner/placement.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::cli {
namespace {

using placement = std::vector<std::uint32_t>;

double cpu_ms() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

bool is_eplb(planner_kind kind) { return kind == planner_kind::eplb || kind == planner_kind::eplb_hierarchical; }

bench::eplb_shape shape_of(const load_simulation& settings, std::uint32_t experts) {
  const auto& slots = settings.node_slots;
  const bool grouped = settings.planner == planner_kind::eplb_hierarchical;
  return {experts, std::accumulate(slots.begin(), slots.end(), 0U), static_cast<std::uint32_t>(slots.size()),
          grouped ? settings.zones : 1, grouped ? settings.groups : 1};
}

result<void> check(const load_trace& trace, const load_simulation& settings) {
  const auto& slots = settings.node_slots;
  const auto total = std::accumulate(slots.begin(), slots.end(), std::uint64_t{0});
  for (std::size_t l = 0; l < trace.layers.size(); ++l) {
    if (trace.experts[l] > total) {
      return fail(
          errc::invalid_request,
          fmt::format("layer {} has {} experts and all nodes together have {} slots; give at least one per expert",
                      trace.layers[l], trace.experts[l], total));
    }
    if (!is_eplb(settings.planner)) continue;
    if (std::ranges::adjacent_find(slots, std::not_equal_to{}) != slots.end()) {
      return fail(errc::invalid_request,
                  "EPLB needs nodes with equally many slots; choose a number of slots that the "
                  "nodes divide, or another planner");
    }
    if (auto good = bench::check_eplb_shape(shape_of(settings, trace.experts[l])); !good) return good;
  }
  return {};
}

class simulation {
 public:
  simulation(const load_trace& trace, const load_simulation& settings)
      : settings_{settings},
        planner_{nodes_of(settings), {.moves_max = settings.moves_max, .imbalance_target = settings.imbalance_target}},
        held_(trace.layers.size()) {}

  simulated_step run(std::uint32_t step, const std::vector<std::vector<double>>& loads) {
    simulated_step seen;
    seen.step = step;
    const double layers = static_cast<double>(loads.size());
    std::vector<placement> before = held_;
    const double begin = cpu_ms();
    for (std::size_t l = 0; l < loads.size(); ++l) held_[l] = plan(loads[l], before[l]);
    seen.plan_ms = cpu_ms() - begin;
    for (std::size_t l = 0; l < loads.size(); ++l) {
      const double imbalance = bench::imbalance(loads[l], held_[l], settings_.node_slots);
      seen.imbalance_mean += imbalance / layers;
      seen.imbalance_max = std::max(seen.imbalance_max, imbalance);
      seen.wasted_slots_per_layer += bench::count_wasted(held_[l], settings_.node_slots) / layers;
      if (!before[l].empty()) {
        seen.moves_per_layer += bench::count_moves(before[l], held_[l], settings_.node_slots) / layers;
      }
    }
    return seen;
  }
  [[nodiscard]] const std::vector<placement>& held() const { return held_; }

 private:
  // Zones are runs of neighbouring nodes, as equal as can be.
  static std::vector<coordinator::load_node> nodes_of(const load_simulation& settings) {
    std::vector<coordinator::load_node> nodes;
    for (std::size_t n = 0; n < settings.node_slots.size(); ++n) {
      nodes.push_back(
          {settings.node_slots[n], static_cast<std::uint32_t>(n * settings.zones / settings.node_slots.size()), 1});
    }
    return nodes;
  }
  placement plan(const std::vector<double>& loads, const placement& before) {
    if (is_eplb(settings_.planner)) {
      return bench::eplb(loads, shape_of(settings_, static_cast<std::uint32_t>(loads.size())));
    }
    if (settings_.planner == planner_kind::keep && !before.empty()) return before;
    return planner_.plan(loads, before).expert_of_slot;
  }

  const load_simulation& settings_;
  coordinator::load_planner planner_;
  std::vector<placement> held_;  // per layer; empty: not placed yet
};

}  // namespace

result<std::vector<simulated_step>> simulate_loads(const load_trace& trace, const load_simulation& settings,
                                                   bool with_placement) {
  if (auto good = check(trace, settings); !good) return fail(good.error());
  simulation planned{trace, settings};
  std::vector<simulated_step> steps;
  trace.each_step([&](std::uint32_t step, const std::vector<std::vector<double>>& loads) {
    steps.push_back(planned.run(step, loads));
    if (with_placement) steps.back().expert_of_slot = planned.held();
  });
  return steps;
}

}  // namespace troupe::cli
