// What the cluster state machine wants done: one struct, its members in the order in which they must be done.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "coordinator/core/events.hpp"

namespace troupe::coordinator {

// -- records: what survives a restart -----------------------------------------------------------------------------

struct cluster_record {
  std::string cluster_id;
  std::string model_fingerprint;
  term_number term;
  epoch_number epoch;
  friend bool operator==(const cluster_record&, const cluster_record&) = default;
};

struct node_record {
  node_id node;
  incarnation_number incarnation;
  node_facts facts;
  std::optional<node_state> in_map;  // what the map of cluster_record::epoch says; none: it does not name the node
  bool draining{};                   // an operator wants it empty
  std::string operation;             // the drain's id
  bool removed{};                    // an operator removed this incarnation: it must not come back
  friend bool operator==(const node_record&, const node_record&) = default;
};

struct replica_record {
  node_id node;
  slot_index slot;
  weights_version version;
  friend bool operator==(const replica_record&, const replica_record&) = default;
};

struct expert_record {
  expert_id expert;
  expert_state state{expert_state::dormant};
  weights_version version;
  std::optional<sha256_digest> digest;
  std::vector<replica_record> replicas;  // in the map
  friend bool operator==(const expert_record&, const expert_record&) = default;
};

// What an operator's command came to. Also the answer to the same command id later.
struct command_outcome {
  std::string operation;  // id of what goes on in the background; empty: done already
  std::string verb;       // "drain", "undrain", "remove", "stop"
  node_id node;
  std::string state;    // "running", "done", "dry_run"
  std::string message;  // one line for a person
  std::uint32_t replicas_to_move{};
  friend bool operator==(const command_outcome&, const command_outcome&) = default;
};

struct command_record {
  std::string command_id;
  std::uint64_t number{};  // grows; the oldest are forgotten first
  command_outcome outcome;
};

struct node_erased {
  node_id node;
};
struct command_erased {
  std::string command_id;
};

using store_record =
    std::variant<cluster_record, node_record, node_erased, expert_record, command_record, command_erased>;

// All records, as the store gives them back at start.
struct durable_state {
  std::optional<cluster_record> cluster;  // none: a fresh store
  std::vector<node_record> nodes;
  std::vector<expert_record> experts;
  std::vector<command_record> commands;
};

// -- messages to nodes ----------------------------------------------------------------------------------------------

struct join_reply {
  std::optional<error> refused;
  std::uint32_t retry_after_ms{};  // 0: no use
  term_number term;
  epoch_number epoch;
};

struct peer_source {
  node_id node;
  std::string address;
  std::string public_key;
};

struct load_order {
  term_number term;
  std::uint64_t command{};
  slot_index slot;
  expert_id expert;
  weights_version version;
  std::optional<sha256_digest> digest;
  std::vector<peer_source> peers;
};

struct free_order {
  term_number term;
  std::uint64_t command{};
  slot_index slot;
  expert_id expert;
  weights_version version;
};

struct inventory_request {};

struct node_message {
  std::string peer;
  node_id node;
  std::variant<join_reply, load_order, free_order, inventory_request> what;
};

struct recipient {
  std::string peer;
  node_id node;
};

struct publication {
  std::shared_ptr<const cluster_map> map;
  std::vector<recipient> to;
};

// -- operators ------------------------------------------------------------------------------------------------------

struct admin_reply {
  std::string peer;
  std::string command_id;
  result<command_outcome> outcome;
};

enum class severity : std::uint8_t { info, warning, error };

struct operator_event {
  severity level{severity::info};
  std::string kind;    // "node_joined", "replica_failed", ...: stable, for filters
  std::string object;  // "expert-0", "3/7"
  std::string text;
};

struct output {
  // 1. Written and synced, all or nothing, before anything below is done; then persist_result{ticket} goes back in.
  //    When the write fails nothing below is done. Empty: nothing to write, no result is waited for.
  std::uint64_t ticket{};
  std::vector<store_record> persist;
  std::vector<node_message> messages;    // 2. sent
  std::optional<publication> published;  // 3. sent to every recipient
  std::vector<admin_reply> replies;      // 4. answered: acknowledged means durable
  std::vector<operator_event> events;    // 5. logged and kept

  [[nodiscard]] bool empty() const {
    return persist.empty() && messages.empty() && !published && replies.empty() && events.empty();
  }
};

}  // namespace troupe::coordinator
