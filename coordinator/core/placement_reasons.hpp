// Why replicas come and go, in words, and what a new map changed. Pure functions over the cluster's state.
#pragma once

#include <string>

#include "coordinator/core/cluster_state.hpp"
#include "coordinator/core/placement_planner.hpp"

namespace troupe::coordinator::placement_reasons {

// Of a move of this plan, at the time when it is begun.
[[nodiscard]] std::string of(const cluster_state& state, const planner_input& view, const planned_move& move);

// From the map that is published to one that replaces it.
[[nodiscard]] placement_epoch describe(const cluster_state& state, const cluster_map& before, const cluster_map& after);

}  // namespace troupe::coordinator::placement_reasons
