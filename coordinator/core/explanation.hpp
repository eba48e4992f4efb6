// Why an expert is where it is, and what would change that: plain data for `troupe expert explain`.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator {

struct explained_replica {
  enum class kind : std::uint8_t {
    wanted,   // no slot yet
    loading,  // ordered, or being copied
    ready,    // verified; the map that names it is on its way
    serving,
    leaving,  // out of the map; routers may still use it
    freeing,
    failed,
  };
  node_id node;
  std::optional<slot_index> slot;
  kind state{kind::wanted};
  std::string why;  // why it came, or why it goes
};
[[nodiscard]] std::string_view to_string(explained_replica::kind state);

struct explanation {
  std::vector<explained_replica> replicas;  // by node
  std::uint64_t rows_in_window{};
  double share{};       // of the layer's rows in the window
  double fair_share{};  // one part of as many as there are experts in use
  companions together;  // experts that the same rows chose, in the window
  // One sentence each, for a person.
  std::vector<std::string> reasons;
  std::vector<std::string> under_way;
  std::vector<std::string> would_change;  // never empty
};

// @pre `expert` is one of the state's
[[nodiscard]] explanation explain(const cluster_state& state, const expert_entry& expert);

}  // namespace troupe::coordinator
