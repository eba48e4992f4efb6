// Re-packing: replicas of unevenly loaded layers change places, at most so many at a time. What a scheduled refresh
// does besides looking for newer weights. Free slots stay free: a refresh needs them.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core/events.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

struct repacking {
  std::vector<apply_placement::placed_expert> experts;  // where they are to be; the others stay
  std::uint32_t moves{};                                // replicas that are copied
  std::uint32_t layers{};                               // that change
  double imbalance_before{}, imbalance_after{};  // of those layers, the mean: most over mean of the nodes, minus 1
};

// By the rows of the last minute, with the load planner; the layers that gain most come first. Left alone are layers
// with too few rows (limits::policy_rows_min), under a change, that would gain less than limits::balance_gain_min, or
// whose better placement moves an expert that is pinned. Pure.
[[nodiscard]] repacking plan_repacking(const policy_input& input, std::uint32_t moves_max);

}  // namespace troupe::coordinator
