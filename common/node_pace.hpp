// What routers make of how long an expert node's calls take (router_node/core/node_latency.hpp).
#pragma once

#include <cstdint>
#include <string_view>

namespace troupe {

enum class node_pace : std::uint8_t { normal, slow, quarantined };

[[nodiscard]] constexpr std::string_view to_string(node_pace pace) {
  switch (pace) {
    case node_pace::normal:
      return "normal";
    case node_pace::slow:
      return "slow";
    case node_pace::quarantined:
      return "quarantined";
  }
  return "unknown";
}

}  // namespace troupe
