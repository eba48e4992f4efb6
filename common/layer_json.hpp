// How documents name a layer. Pure; any thread.
#pragma once

#include "common/ids.hpp"

namespace troupe {

// Layers of decoder-only models are numbers, others are "encoder.3": as people name them. `Json`: nlohmann's, in
// whichever order of keys; named here so that only those who write documents include it.
template <class Json>
[[nodiscard]] Json layer_json(layer_id layer) {
  return layer.stack() == layer_stack::plain ? Json(layer.block()) : Json(to_string(layer));
}

}  // namespace troupe
