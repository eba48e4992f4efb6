// Where every expert is and where it should be, put together from what the coordinator answers. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/render.hpp"

namespace troupe::cli {

// The document of `placement show` (docs/cli.md) from those of `expert list` and `node list`. Of a router's answer,
// which does not say what is wanted, the placement counts as the wanted one.
//
//   load       of a node: the shares of the experts that it holds, each divided by the expert's replicas; a layer's
//              loads add up to 1
//   imbalance  the largest load over the mean one, of the nodes that serve or hold something (1: even); of all layers:
//              of the loads' sums. null when nothing was asked for within the window
[[nodiscard]] json placement_document(const json& experts, const json& nodes);

// As a page: the whole, a row per node, a row per layer with what each node holds ("0-3,7 +5 -9": 5 comes, 9 goes).
// `wide`: a row per expert too.
[[nodiscard]] std::string placement_page(const json& placement, bool wide);

// Its middle part: a row per node. LOAD: the node's part of all loads.
[[nodiscard]] std::string nodes_table(const json& placement);

// {0, 1, 2, 5} -> "0-2,5". @pre ascending
[[nodiscard]] std::string as_ranges(const std::vector<std::uint64_t>& numbers);

}  // namespace troupe::cli
