// What the load planner would move of a placement that is there: `placement plan`. Pure; nothing is carried out.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cli/render.hpp"
#include "common/error.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::cli {

// Loads of a layer's experts, by their number; layers as people name them. A layer without entry has no load.
using loads_by_layer = std::map<std::string, std::vector<double>>;

// The shares of the last minute.
[[nodiscard]] loads_by_layer window_loads(const json& experts);

// The document of `placement plan` (docs/cli.md) from those of `expert list` and `node list`. Nodes that serve take
// part. Each layer has the slots that it uses and an even part of those that are free. Layers without load stay as they
// are. conflict: a layer has more experts than slots; invalid_request: a load of an expert that there is not.
[[nodiscard]] result<json> plan_document(const json& experts, const json& nodes, const loads_by_layer& loads,
                                         coordinator::load_planner_settings settings);

}  // namespace troupe::cli
