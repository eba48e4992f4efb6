// The published load balancer of DeepSeek-AI (EPLB), written from its description (three steps: replicate, pack, groups
// first), as the thing to compare the planner with. It starts from nothing each time, may put two replicas of an expert
// on one node, and needs everything to divide. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.hpp"

namespace troupe::bench {

struct eplb_shape {
  std::uint32_t experts{};
  std::uint32_t slots{};      // of all nodes, all nodes equal
  std::uint32_t nodes{};      // one accelerator each
  std::uint32_t machines{1};  // of so many nodes each; hierarchical only
  std::uint32_t groups{1};    // of experts; hierarchical only
};

// invalid_request: what does not divide.
[[nodiscard]] result<void> check_eplb_shape(const eplb_shape& shape);

// The expert of each slot, slots of node 0 first. `loads`: of each expert. Groups are packed onto machines first, then
// each machine replicates and packs for itself; with one machine and one group that is the global policy.
// @pre check_eplb_shape
[[nodiscard]] std::vector<std::uint32_t> eplb(std::span<const double> loads, const eplb_shape& shape);

}  // namespace troupe::bench
