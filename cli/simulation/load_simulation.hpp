// What planners would do with loads that are known or made up: step by step, the placement of the step before and the
// loads in, a placement out, and what that is worth under these loads. No cluster, virtual time, one thread; equal
// input gives equal output but for the CPU time that it reports.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "cli/simulation/load_source.hpp"
#include "cli/simulation/node_calendar.hpp"
#include "cli/simulation/planned_layers.hpp"
#include "cli/simulation/policy_layers.hpp"
#include "common/error.hpp"

namespace troupe::cli {

struct simulated_cluster {
  std::vector<std::uint32_t> node_slots;  // per layer
  std::uint32_t zones{1};                 // of neighbouring nodes
  node_calendar calendar{};
  std::uint64_t expert_bytes{};
  bool hindsight{};  // plan from the loads of the step before, as a coordinator must
};

// Who places: a planner, or the coordinator's policies.
using placing = std::variant<planner_settings, simulated_policies>;

struct simulated_step {
  std::uint32_t step{};
  double imbalance_mean{};  // over layers: longest over mean load of a node that is there, minus 1
  double imbalance_max{};
  double moves_per_layer{};         // experts that a node got; 0 in the first step, which places
  double wasted_slots_per_layer{};  // empty, or a second copy on the same node
  double plan_ms{};                 // CPU time of planning all layers
  std::uint32_t nodes_away{};
  double unserved_share{};         // of the load: experts without a replica on a node that is there
  double masked_share{};           // of the load: what rows gave to experts that do not take part
  std::uint64_t cold_experts{};    // of all layers: under limits::cold_share of their layer's mean load
  std::uint64_t moved_bytes{};     // what nodes got, the first placement left out
  std::uint64_t resident_bytes{};  // of all replicas

  std::vector<placement> expert_of_slot;  // per layer, when asked for
};

struct simulated_run {
  std::string name;  // of the planner
  std::vector<simulated_step> steps;
  std::uint64_t digest{};  // of all placements and figures but plan_ms
};

// One run each, all with the same loads and nodes.
// invalid_request: fewer slots than experts in a layer, or what EPLB cannot divide. Nothing is planned then.
[[nodiscard]] result<std::vector<simulated_run>> simulate_loads(const load_source& source,
                                                                const simulated_cluster& cluster,
                                                                std::span<const placing> who, bool with_placement);

}  // namespace troupe::cli
