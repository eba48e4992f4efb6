// What the cluster state machine wants done: one struct, its members in the order in which they must be done.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/limits.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/core/placement_history.hpp"

namespace troupe::coordinator {

// -- records: what survives a restart -----------------------------------------------------------------------------

struct cluster_record {
  std::string cluster_id;
  std::string model_fingerprint;
  term_number term;
  epoch_number epoch;
  std::int64_t since_unix_ms{};  // when the cluster was first started; 0: a program of before knew it
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
  bool masked{};
  friend bool operator==(const expert_record&, const expert_record&) = default;
};

// Whether an expert takes part. One that does not is masked in the gates and has no replica.
enum class expert_presence : std::uint8_t {
  active,
  dormant,  // not added yet (progressive addition)
  pruned,
};

// What operators want of one expert. Empty: what the cluster's settings and the planner say.
struct expert_wish {
  std::optional<std::uint32_t> replicas;  // instead of the cluster's replication
  std::vector<node_id> nodes;             // where replicas are to be while these nodes take work, the first ones first
  bool pinned{};                          // migrate is refused until unpin
  expert_presence presence{expert_presence::active};
  weights_version version{1};             // of its weights; 1: the model's own
  std::optional<sha256_digest> digest{};  // of that version; none: what the first verified replica has
  bool pruned_by_policy{};                // and so not against it when the policy brings it back
  [[nodiscard]] bool empty() const { return *this == expert_wish{}; }
  friend bool operator==(const expert_wish&, const expert_wish&) = default;
};

struct wish_record {
  expert_id expert;
  expert_wish wish;
};

// Their numbers are on disk.
enum class operation_kind : std::uint8_t { migrate, replicate, drain, prune, restore, add, refresh, rollback, apply };
enum class operation_state : std::uint8_t { running, done, failed, cancelled, rolled_back };
[[nodiscard]] std::string_view to_string(operation_kind kind);
[[nodiscard]] std::string_view to_string(operation_state state);

// One of the experts that an operation changes.
struct wish_change {
  expert_id expert;
  expert_wish before;
  expert_wish after;
  friend bool operator==(const wish_change&, const wish_change&) = default;
};

// Something that an operator started and that goes on in the background. What it changed is a wish (or a node's drain);
// how far it is is seen in the slots (operations.hpp), never kept here.
struct operation_record {
  std::uint64_t number{};  // people see "op-N"
  operation_kind kind{operation_kind::migrate};
  operation_state state{operation_state::running};
  expert_id expert;                 // all but drain and those with `changes`
  node_id node;                     // migrate: the target; drain: the node
  std::vector<node_id> from;        // where the expert's replicas were at the start
  std::uint32_t replicas_before{};  // how many were wanted at the start
  std::uint32_t replicas_after{};   // how many are wanted at the end
  expert_wish before;               // the wish that a cancelled or failed one goes back to
  bool cancelling{};                // on its way back
  std::string who;
  std::int64_t since_unix_ms{};
  std::string reason;  // why it failed, was cancelled or was rolled back
  std::string why;     // a policy's figures; empty: an operator's command
  // -- of an operation on many experts (refresh, rollback, apply), instead of `expert` and what belongs to it
  std::vector<wish_change> changes{};  // ordered by expert
  std::string subject{};               // what people call it: the folder, "epoch 12"
  bool is_failing{};                   // cancelling because it cannot be completed
  bool in_batches{};                   // a layer does not fit in beside what is in use: as much of it at a time as does
  friend bool operator==(const operation_record&, const operation_record&) = default;
};
[[nodiscard]] std::string operation_name(std::uint64_t number);

// Where the weights of a version are read from. Version 1, the model's own folder, has none. Never erased: an expert
// may go back to it.
struct source_record {
  weights_version version;
  std::string folder;
  std::uint64_t operation{};  // that brought it
  std::uint32_t experts{};    // that it changed
  operation_state state{operation_state::running};
  std::string who{};
  std::int64_t since_unix_ms{};
  friend bool operator==(const source_record&, const source_record&) = default;
};

// When to look into a folder again. One of them; `every` and `every_batches` 0: none.
struct schedule_record {
  std::chrono::milliseconds every{};
  std::string folder;
  bool is_paused{};
  std::int64_t last_unix_ms{};  // when it was looked into, or scheduled
  std::uint64_t every_batches{};
  std::uint32_t moves_max{};
  std::uint64_t batches{};  // that routers had told of since then, when this was written
  friend bool operator==(const schedule_record&, const schedule_record&) = default;
};

// What pruning has seen of those experts of a layer that take part, as of then.
struct watch_record {
  using parts = std::array<std::uint64_t, limits::traffic_window_buckets>;  // of the window, the oldest first
  struct watched {
    std::uint32_t index{};
    std::int64_t since_unix_ms{};  // it has taken part
    parts rows{}, norms{};         // as traffic_window counts them
    friend bool operator==(const watched&, const watched&) = default;
  };
  layer_id layer;
  std::int64_t at_unix_ms{};
  std::chrono::milliseconds window{};
  std::vector<watched> experts;
  friend bool operator==(const watch_record&, const watch_record&) = default;
};

// One time that what is scheduled was done. The store keeps the last limits::scheduled_runs_kept_max.
struct scheduled_run {
  std::uint64_t number{};
  std::int64_t at_unix_ms{};
  std::string because;    // what had passed: "600 s"
  std::string refresh;    // what became of looking for newer weights; empty: not known yet
  std::uint32_t moves{};  // replicas that change places
  std::string operation;  // that moves them; empty: none do
  double imbalance_before{}, imbalance_after{};
  std::uint32_t cold{}, stale{};      // experts; stale: with weights as old as an alert is due
  std::vector<expert_id> cold_named;  // the first of them
  friend bool operator==(const scheduled_run&, const scheduled_run&) = default;
};

// What an operator's command came to. Also the answer to the same command id later.
struct command_outcome {
  std::string operation;  // id of what goes on in the background; empty: done already
  std::string verb;       // "drain", "undrain", "remove", "stop", "migrate", "replicate", "pin", "unpin", "prune",
                          // "restore", "add", "refresh", "rollback", "apply", "schedule", "pause", "cancel"
  node_id node;
  std::string state;    // "running", "done", "dry_run"
  std::string message;  // one line for a person
  std::uint32_t replicas_to_move{};
  std::string expert{};           // "3/7"; empty: no command on an expert
  std::uint64_t bytes_to_move{};  // bytes that are copied over the network or read from disk
  std::uint32_t experts{};        // refresh, rollback, apply: how many experts it changes
  friend bool operator==(const command_outcome&, const command_outcome&) = default;
};

struct command_record {
  std::string command_id;
  std::uint64_t number{};  // grows; the oldest are forgotten first
  command_outcome outcome;
};

// An epoch, written with its map. `before`: the experts that its map has otherwise than that of the epoch before, as
// they were there; so each map leads back to the one before. The store keeps the last
// limits::placement_epochs_kept_max, and `before` of the last limits::placement_maps_kept_max - 1.
struct epoch_record {
  placement_epoch what;
  std::optional<std::vector<expert_record>> before;  // ordered by expert; none: too old
  friend bool operator==(const epoch_record&, const epoch_record&) = default;
};

struct node_erased {
  node_id node;
};
struct command_erased {
  std::string command_id;
};
struct operation_erased {
  std::uint64_t number{};
};

using store_record = std::variant<cluster_record, node_record, node_erased, expert_record, command_record,
                                  command_erased, wish_record, operation_record, operation_erased, source_record,
                                  schedule_record, epoch_record, scheduled_run, watch_record>;

// All records, as the store gives them back at start.
struct durable_state {
  std::optional<cluster_record> cluster;  // none: a fresh store
  std::vector<node_record> nodes;
  std::vector<expert_record> experts;
  std::vector<command_record> commands;
  std::vector<wish_record> wishes;
  std::vector<operation_record> operations;
  std::vector<source_record> sources;
  schedule_record schedule;
  std::vector<epoch_record> epochs;  // ordered by epoch
  std::vector<scheduled_run> runs;   // ordered by number
  std::vector<watch_record> watches;
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
  std::string folder{};  // where this version is read from; empty: the model's own
};

struct free_order {
  term_number term;
  std::uint64_t command{};
  slot_index slot;
  expert_id expert;
  weights_version version;
};

struct inventory_request {};

// All experts that are cold.
struct cold_notice {
  term_number term;
  std::uint64_t fingerprint{};
  std::vector<expert_id> experts;
};

struct node_message {
  std::string peer;
  node_id node;
  std::variant<join_reply, load_order, free_order, inventory_request, cold_notice> what;
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
  std::string folder_to_read{};          // 6. read; comes back as refresh_weights of nobody's. Empty: none

  [[nodiscard]] bool empty() const {
    return persist.empty() && messages.empty() && !published && replies.empty() && events.empty() &&
           folder_to_read.empty();
  }
};

}  // namespace troupe::coordinator
