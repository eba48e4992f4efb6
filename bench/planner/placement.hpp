// What a placement of one layer is worth, whoever made it: the same ruler for every planner. Pure.
//
// `placement`: the expert of each slot (coordinator::no_expert: empty), the slots of node 0 first.
// `node_slots`: how many of them each node has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::bench {

// Load of each node; an expert's load is split evenly over its slots.
[[nodiscard]] std::vector<double> node_loads(std::span<const double> loads, std::span<const std::uint32_t> placement,
                                             std::span<const std::uint32_t> node_slots);

// Longest over mean load of a node, minus 1; 0 without load.
[[nodiscard]] double imbalance(std::span<const double> loads, std::span<const std::uint32_t> placement,
                               std::span<const std::uint32_t> node_slots);

// Experts that a node has in `after` and did not have in `before`: what would have to be copied.
[[nodiscard]] std::uint32_t count_moves(std::span<const std::uint32_t> before, std::span<const std::uint32_t> after,
                                        std::span<const std::uint32_t> node_slots);

// Slots that are empty or hold an expert that their node holds already.
[[nodiscard]] std::uint32_t count_wasted(std::span<const std::uint32_t> placement,
                                         std::span<const std::uint32_t> node_slots);

// `after` with its nodes renamed so that as much as possible stays where it is in `before` (an optimal assignment).
// @pre nodes with `slots_per_node` slots each
[[nodiscard]] std::vector<std::uint32_t> rename_nodes(std::span<const std::uint32_t> before,
                                                      std::span<const std::uint32_t> after,
                                                      std::uint32_t slots_per_node);

}  // namespace troupe::bench
