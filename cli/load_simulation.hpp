// What a planner would do with loads that are known: step by step, the placement of the step before and its loads in, a
// placement out, and what that is worth under these loads. No cluster; pure but for the CPU time that it reports.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/load_trace.hpp"
#include "common/error.hpp"

namespace troupe::cli {

// keep: placed for the first step and left alone
enum class planner_kind : std::uint8_t { troupe, eplb, eplb_hierarchical, keep };

struct load_simulation {
  planner_kind planner{planner_kind::troupe};
  std::vector<std::uint32_t> node_slots;  // per layer
  std::int64_t moves_max{-1};             // per layer and step; -1: as many as help
  double imbalance_target{0.05};          // with a limit of moves, none is made below it
  std::uint32_t zones{1};                 // of neighbouring nodes; hierarchical EPLB: machines
  std::uint32_t groups{8};                // of experts, for hierarchical EPLB
};

struct simulated_step {
  std::uint32_t step{};
  double imbalance_mean{};  // over layers: longest over mean load of a node, minus 1
  double imbalance_max{};
  double moves_per_layer{};                                // experts that a node got; 0 in the first step, which places
  double wasted_slots_per_layer{};                         // empty, or a second copy on the same node
  double plan_ms{};                                        // CPU time of planning all layers
  std::vector<std::vector<std::uint32_t>> expert_of_slot;  // per layer, when asked for
};

// invalid_request: fewer slots than experts in a layer, or what EPLB cannot divide. Nothing is planned then.
[[nodiscard]] result<std::vector<simulated_step>> simulate_loads(const load_trace& trace,
                                                                 const load_simulation& settings, bool with_placement);

}  // namespace troupe::cli
