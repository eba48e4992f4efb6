// What policies look at and what comes of them. A policy is a pure function (what is, settings) -> proposals with
// reasons; policy_runner.hpp collects what it looks at, checks each proposal like an operator's command, and starts it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/limits.hpp"
#include "coordinator/core/events.hpp"

namespace troupe::coordinator {

struct policy_settings {
  // -- progressive addition
  bool adds{};
  double add_masked_share{0.05};   // of a layer's gate probability that went to one masked expert
  std::uint64_t add_queue_rows{};  // and as many rows wait at the expert nodes; 0: does not matter
  // -- pruning
  bool prunes{};
  double prune_share{0.02};  // of its layer's rows, and of what they add to the layer's output
  // Of a layer's gate probability, for pruned experts together: when they have it, no further one goes.
  double prune_masked_max{0.05};
  std::chrono::steady_clock::duration prune_window{limits::prune_window};
  // -- balancing
  bool balances{};
  double balance_imbalance{0.25};  // of a layer: most over mean of the nodes, minus 1
  // Half the sum of the differences between the experts' shares of a layer's rows in the last minute and in its newest
  // 10 to 20 s: from here on the text has changed, and balancing looks at the newest rows alone.
  double drift{0.2};
  // -- cold experts
  double cold_share{
      limits::cold_share};  // of the fair share of its layer's rows: an expert with less is cold; 0: none is
  std::chrono::steady_clock::duration cold_stale_after{limits::cold_stale_after};  // without other weights
};

struct node_load {
  node_id name;
  std::uint32_t slots_free{};
  std::uint64_t queue_rows{};
};

struct expert_load {
  std::uint32_t index{};
  bool is_present{};
  bool is_dormant{};                 // not present because it is not added yet; otherwise pruned, if not present
  bool may_return{};                 // pruned, and by the policy
  bool is_fixed{};                   // pinned, or an operation is under way on it
  std::vector<std::uint32_t> nodes;  // that serve it; indices into policy_input::nodes
  std::uint64_t rows{};              // in the last minute
  std::uint64_t recent_rows{};       // of those, in the last 10 to 20 s
  double masked_share{};             // of a masked expert, in the last minute: gate probability per row
  std::uint64_t masked_rows{};       // rows that were gated meanwhile
  std::uint64_t long_rows{};         // in policy_settings::prune_window
  double long_norm{};                // meanwhile: sum over its rows of gate weight x norm of its output
  bool was_watched{};                // present for the whole of that window
};

struct layer_load {
  layer_id id;
  std::vector<expert_load> experts;  // by index
  bool is_changing{};                // an operation is under way on one of its experts
};

struct policy_input {
  std::vector<node_load> nodes;  // that take new replicas
  std::vector<layer_load> layers;
};

struct proposal {
  std::variant<change_presence, migrate_expert, replicate_expert, apply_placement> what;  // all of one layer
  std::string policy;  // "progressive addition", "pruning", "balancing"
  std::string why;     // the figures
};

// At most one proposal per layer, the layers with the strongest case first.
[[nodiscard]] std::vector<proposal> propose_additions(const policy_input& input, const policy_settings& settings);
[[nodiscard]] std::vector<proposal> propose_prunes(const policy_input& input, const policy_settings& settings);
// The other way, for what the policy pruned: rows miss it again.
[[nodiscard]] std::vector<proposal> propose_returns(const policy_input& input, const policy_settings& settings);
[[nodiscard]] std::vector<proposal> propose_moves(const policy_input& input, const policy_settings& settings);

}  // namespace troupe::coordinator
