// Everything the coordinator knows, as plain data. The state machine's parts (membership, inventories, reconciler,
// publisher, admin_commands) are free functions over this struct; nobody else changes it.
//
// Node and replica lives are variants; docs/state-machines.md draws them. Belongs to one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/ids.hpp"
#include "common/missed_heartbeats.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/core/operation_totals.hpp"
#include "coordinator/core/output.hpp"
#include "coordinator/core/pair_window.hpp"
#include "coordinator/core/placement_history.hpp"
#include "coordinator/core/policies/cold_experts.hpp"
#include "coordinator/core/policies/policy.hpp"
#include "coordinator/core/traffic_window.hpp"
#include "model/description.hpp"
#include "model/gating.hpp"

namespace troupe::coordinator {

template <class... Handlers>
struct overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
overloaded(Handlers...) -> overloaded<Handlers...>;

struct expert_spec {
  expert_id id;
  std::uint64_t bundle_bytes{};
};

struct cluster_settings {
  std::string cluster_id;
  std::string model_fingerprint;
  std::uint32_t replication{1};
  std::uint32_t expert_nodes{1};              // how many the first placement waits for
  std::vector<expert_spec> experts;           // ordered by id
  std::map<layer_id, model::gating> gates{};  // of each layer that has experts: what may be masked, and its groups
  model::group_limit route_groups{};          // what made groups where the family has none: for people
  policy_settings policies{};
  std::int64_t started_unix_ms{};  // wall clock at the start: for people only
  std::uint32_t active_experts{};  // per layer, at the cluster's first start; the others are added later; 0: all
};

// -- slots: what the coordinator knows of one replica ----------------------------------------------------------------

struct slot_ordered {  // asked for, no trace in the inventory yet
  time_point first_sent;
  time_point last_sent;
};
struct slot_loading {
  time_point since;
};
struct slot_ready {};     // verified: may be in the map
struct slot_presumed {};  // in the map before a restart; its node has not reported yet
struct slot_retiring {    // out of the map since `epoch` (0: with the next one); routers may still use it
  epoch_number epoch;
  time_point since;
};
struct slot_freeing {
  time_point since;
  time_point last_sent;
};
struct slot_failed {
  std::string reason;
};
using slot_life =
    std::variant<slot_ordered, slot_loading, slot_ready, slot_presumed, slot_retiring, slot_freeing, slot_failed>;

template <class... Lives>
[[nodiscard]] bool is_any(const slot_life& life) {
  return (std::holds_alternative<Lives>(life) || ...);
}

struct slot_entry {
  expert_id expert;
  weights_version version;
  slot_life life;
  std::optional<node_id> replaces{};  // loaded to take the place of that node's replica
  std::uint64_t resident_bytes{};
  bool seen{};                                    // in an inventory
  std::optional<output_difference> difference{};  // to the version that the node served when it was loaded
  // For people; empty: it was there when this coordinator started.
  std::string came_for{};
  std::string goes_for{};
};
template <class... Lives>
[[nodiscard]] bool is_any(const slot_entry& entry) {
  return is_any<Lives...>(entry.life);
}
// Weights are there or on their way.
[[nodiscard]] inline bool is_replica(const slot_entry& entry) { return !is_any<slot_freeing, slot_failed>(entry); }

// -- nodes --------------------------------------------------------------------------------------------------------

struct node_expected {  // known from before a restart, not heard yet; presumed to serve until then
  time_point until;
};
struct node_joining {  // accepted; gets work once it has reported and, after a loss, has been heard steadily
  time_point since;
  bool probation{};  // it was lost before
  time_point steady_since;
  bool reported{};
};
struct node_serving {
  time_point since;
};
struct node_suspect {  // silent, but not for long enough to act
  time_point since;
};
struct node_quarantined {
  std::string reason;
  std::optional<time_point> until;  // none: until it is started anew
};
struct node_lost {
  time_point since;
  std::string reason;
};
using node_life = std::variant<node_expected, node_joining, node_serving, node_suspect, node_quarantined, node_lost>;

// A newcomer with the name of a node that seemed alive a moment ago. Which of the two lives shows within the next
// heartbeats: if the old one is heard twice, the newcomer is refused, else it takes over.
struct contested_join {
  join_request request;
  time_point since;
  int old_heartbeats{};
};

struct drain_operation {
  std::string id;
  std::uint32_t replicas_at_start{};
  bool done{};
};

struct load_failure {
  std::uint32_t count{};
  time_point not_before;
  std::string reason;
};

struct node_entry {
  std::string peer;  // connection
  incarnation_number incarnation;
  node_facts facts;
  node_life life;
  std::optional<drain_operation> drain;
  bool removed{};  // by an operator; kept so that this incarnation is refused
  time_point last_heard;
  std::deque<time_point> losses;
  missed_heartbeats missed;
  std::uint64_t restarts{};  // that another process came under this name
  std::optional<contested_join> contested;

  // expert nodes
  std::map<slot_index, slot_entry> slots;
  std::map<expert_id, load_failure> failures;
  std::uint64_t inventory_sequence{};
  time_point inventory_due{};  // asked for again then, unless one arrives
  std::uint64_t resident_set_bytes{};
  std::uint64_t queue_rows{};
  std::optional<time_point> stats_heard;
  double rows_per_second{};                    // between its last two reports
  std::optional<std::uint64_t> batches_heard;  // routers: total of the newest report
  std::map<node_id, pace_report> paces;        // routers: the expert nodes that are not normal for them

  // maps
  epoch_number heard_epoch;  // from heartbeats
  term_number acked_term;
  epoch_number acked_epoch;
  epoch_number uses_since;  // routers: the oldest map by whose expert versions texts go
  std::optional<time_point> map_sent;

  [[nodiscard]] bool is_expert() const { return facts.role == node_role::expert; }
  [[nodiscard]] bool is_draining() const { return drain.has_value(); }
};

// Serves rows: its verified replicas belong into the map.
[[nodiscard]] bool is_serving(const node_entry& node);
// An expert node that serves and may get new replicas.
[[nodiscard]] bool takes_work(const node_entry& node);
// Has a session: accepted and not lost.
[[nodiscard]] bool is_member(const node_entry& node);
[[nodiscard]] node_state shown_state(const node_entry& node);

// -- experts --------------------------------------------------------------------------------------------------------

struct expert_dormant {
  std::string reason;
};
struct expert_warming {};
struct expert_draining {};  // masked; replicas are on their way out
struct expert_pruned {};
struct expert_active {
  std::uint32_t replicas{};  // in the published map
};
using expert_life = std::variant<expert_dormant, expert_warming, expert_active, expert_draining, expert_pruned>;

struct expert_entry {
  expert_id id;
  std::uint64_t bundle_bytes{};
  weights_version version{1};           // in the published map
  std::optional<sha256_digest> digest;  // of that version
  expert_life life;
  expert_wish wish;             // operators'; on disk
  std::vector<node_id> wanted;  // by the newest plan
  std::string last_failure;     // newest failed load; empty: none since it was last verified
};

// "active", "pruned", ...: as operators see it.
[[nodiscard]] std::string_view shown_state(const expert_entry& expert);

// -- the whole --------------------------------------------------------------------------------------------------------

struct command_entry {
  std::uint64_t number{};
  command_outcome outcome;
};

// Records on their way to the disk, and what becomes true once they are there.
struct persist_in_flight {
  std::vector<store_record> records;
  std::shared_ptr<const cluster_map> map;  // becomes the published one
  std::optional<admin_command> command;    // is carried out
  std::optional<command_outcome> outcome;
  std::uint64_t command_number{};
  bool rewrites_operations{};  // holds all wishes and operations
};

struct cluster_state {
  cluster_settings settings;
  time_point now;
  time_point started;
  std::int64_t first_started_unix_ms{};  // the cluster, wall clock; on disk
  time_point routers_back;  // from then on a router that was there before a restart has come back, or is dead
  term_number term;
  bool term_durable{};

  std::map<node_id, node_entry> nodes;
  std::vector<expert_entry> experts;  // ordered by id

  std::shared_ptr<const cluster_map> published;  // never null; epoch 0: nothing published yet
  time_point last_published;
  time_point last_acked;  // when a router last began to use a newer map
  // What the disk holds, to write only what changes.
  std::map<node_id, node_record> durable_nodes;
  std::vector<expert_record> durable_experts;                         // as `experts`
  std::map<std::uint64_t, std::vector<persist_in_flight>> in_flight;  // by ticket
  std::uint64_t last_ticket{};

  std::map<std::string, command_entry> commands;
  std::uint64_t last_command_number{};
  std::uint64_t last_order{};                            // numbers loads and frees
  std::map<std::uint64_t, operation_record> operations;  // by number; on disk
  std::uint64_t last_operation{};
  operation_totals totals;                           // since the start
  std::map<weights_version, source_record> sources;  // on disk
  schedule_record schedule;                          // on disk
  std::deque<scheduled_run> scheduled_runs;          // newest last; on disk once they have ended
  bool repack_due{};                                 // the newest of them still has to move replicas
  std::uint64_t batches{};                           // that routers told of since the start
  std::uint64_t batches_at_record{};                 // of these, when `schedule` was last written
  time_point batches_due{};                          // to be written, if there are more
  bool rewrite_operations{};  // a write failed: what the disk holds of wishes and operations is unknown
  std::set<std::uint64_t> operations_to_erase;  // refused after all, though the disk may hold them

  bool planned{};  // experts' `wanted` says something
  bool placed{};   // the first placement has begun: enough nodes are there
  bool settled{};  // and has ended: from now on every change is a repair
  std::optional<time_point> first_join;
  bool stopping{};
  std::optional<error> alarm;  // the store does not take writes
  time_point store_retry_at;

  traffic_window traffic;                         // of the last minute
  traffic_window long_traffic;                    // of policy_settings::prune_window
  traffic_window long_norms;                      // the same, of gate weight x output norm, in thousandths
  traffic_window masked_rows, masked_mass;        // of the last minute; mass in millionths
  pair_window pairs;                              // of the last minute
  std::map<expert_id, time_point> present_since;  // when policy_runner first saw it take part
  cold_experts cold;
  time_point policies_due;
  time_point watch_due;                    // what pruning has seen is written then
  std::set<std::string> policies_refused;  // that cannot have what they want, which has been told
  placement_history history;
  std::uint32_t replicas_missing{};  // by the newest plan
  std::uint64_t loads_failed{};
  std::uint64_t loads_done{};
  std::uint64_t nodes_lost{};

  bool dirty{true};  // something changed since the last pass
  output out;

  explicit cluster_state(cluster_settings s);
  [[nodiscard]] expert_entry* find(const expert_id& id);
  [[nodiscard]] const expert_entry* find(const expert_id& id) const;
  [[nodiscard]] node_entry* find(const node_id& name);
  // The entry, when `incarnation` is the one that has the session.
  [[nodiscard]] node_entry* find_member(const node_id& name, incarnation_number incarnation);
  // What the node reported since its incarnation began counts from nothing when it comes back.
  void forget_reports(const node_id& name);
  void tell(severity level, std::string kind, std::string object, std::string text);
  [[nodiscard]] cluster_record record(epoch_number epoch) const;
  // Puts `records` into the output; `then` is kept until the result comes back.
  void persist(std::vector<store_record> records, persist_in_flight then);
};

// Wall clock, for people and schedules: as it was at the start, plus the time since.
[[nodiscard]] std::int64_t unix_ms(const cluster_state& state);

// The first record of that kind on its way to the disk for which `is_it` holds; nullptr: none. Valid until the next
// step.
template <class Record, class IsIt>
const Record* find_in_flight(const cluster_state& state, IsIt is_it) {
  for (const auto& [ticket, parts] : state.in_flight) {
    for (const auto& part : parts) {
      for (const auto& item : part.records) {
        const auto* record = std::get_if<Record>(&item);
        if (record != nullptr && is_it(*record)) return record;
      }
    }
  }
  return nullptr;
}

// Takes part in the model, or is about to.
[[nodiscard]] inline bool is_present(const expert_entry& expert) {
  return expert.wish.presence == expert_presence::active;
}
// In the published map.
[[nodiscard]] bool is_masked(const cluster_state& state, const expert_id& expert);
// "expert-0, expert-2", for people; "no node".
[[nodiscard]] std::string names(const std::vector<node_id>& nodes);
// The nodes on which the published map has the expert.
[[nodiscard]] std::vector<node_id> places_of(const cluster_state& state, const expert_id& expert);
// How many replicas of the expert there should be.
[[nodiscard]] std::uint32_t wanted_replicas(const cluster_state& state, const expert_entry& expert);

}  // namespace troupe::coordinator
