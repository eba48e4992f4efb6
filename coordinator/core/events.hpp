// What the cluster state machine is told: everything that arrives from nodes, operators and the store, as plain values.
// `peer` names the connection that a message came by; answers go back there.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/expert_pairs.hpp"
#include "common/ids.hpp"
#include "common/node_pace.hpp"

namespace troupe::coordinator {

using time_point = std::chrono::steady_clock::time_point;
using duration = std::chrono::steady_clock::duration;

// What a node says about itself when it joins.
struct node_facts {
  node_role role{node_role::expert};
  std::uint64_t pid{};
  std::string data_address;
  std::string http_address;
  std::string peer_address;
  std::string public_key;
  std::string machine_id;
  std::string zone;  // failure domain; empty: the machine
  std::string device;
  std::string dtype;
  std::uint32_t slots_total{};
  std::uint64_t slot_bytes{};
  std::string model_fingerprint;
  friend bool operator==(const node_facts&, const node_facts&) = default;
};

struct join_request {
  std::string peer;
  std::string cluster_id;  // empty: a fresh node that does not know it yet
  node_id node;
  incarnation_number incarnation;
  node_facts facts;
};

struct leave_request {
  node_id node;
  incarnation_number incarnation;
};

struct heartbeat {
  node_id node;
  incarnation_number incarnation;
  epoch_number epoch;  // newest map the node works by
};

enum class reported_slot_state : std::uint8_t { loading = 1, ready = 2, failed = 3, freeing = 4 };

// How differently a new version of an expert computes rows that the version before was asked for. Of a row: norm of the
// difference of the outputs over the norm of the older one's output.
struct output_difference {
  std::uint32_t rows{};
  double mean{};
  double largest{};
};

struct slot_report {
  slot_index slot;
  expert_id expert;
  weights_version version;
  reported_slot_state state{reported_slot_state::loading};
  std::optional<sha256_digest> digest;  // ready
  std::uint64_t bundle_bytes{};
  std::uint64_t resident_bytes{};
  std::string failure;                            // failed: why
  std::optional<output_difference> difference{};  // ready
};

struct inventory_report {
  node_id node;
  incarnation_number incarnation;
  std::uint64_t sequence{};
  term_number term;  // newest the node has seen
  std::vector<slot_report> slots;
  std::optional<std::string> device_failure{};  // the device is lost, and every slot with it
};

struct map_acknowledged {
  node_id node;
  incarnation_number incarnation;
  term_number term;
  epoch_number epoch;
  epoch_number uses_since{};  // routers: the oldest map by whose expert versions texts go; {0}: `epoch`
};

struct expert_traffic {
  expert_id expert;
  std::uint64_t rows_total{};  // since the incarnation began
  std::uint64_t calls_total{};
  // Routers, of a masked expert: rows gated meanwhile, and the gate probability that they would have given it.
  std::uint64_t masked_rows_total{};
  double masked_mass_total{};
  double weighted_norm_total{};  // expert nodes: sum over its rows of gate weight x norm of its output
};

// What a router makes of an expert node's call times, and why it last changed its mind.
struct pace_report {
  node_id node;
  node_pace pace{};
  std::string reason;
};

// Of one layer, which experts rows of a router chose together since the report with the number before.
struct pairs_report {
  layer_id layer;
  std::uint64_t number{};
  pair_counts counts;
};

struct stats_report {
  node_id node;
  incarnation_number incarnation;
  std::uint64_t resident_set_bytes{};
  std::uint64_t queue_rows{};
  std::vector<expert_traffic> experts;
  std::optional<std::uint64_t> cold_fingerprint{};  // routers that want to know the cold experts: what they know
  std::uint64_t batches_total{};                    // routers, since the start
  std::vector<pace_report> paces{};                 // routers: nodes that were slow at some time
  std::vector<pairs_report> pairs{};                // routers: of some layers
};

// -- operators ----------------------------------------------------------------------------------------------------

struct drain_node {
  node_id node;
  bool dry_run{};
};
struct undrain_node {
  node_id node;
  bool dry_run{};
};
struct remove_node {
  node_id node;
  bool dry_run{};
  bool force{};
};
struct stop_cluster {};
struct migrate_expert {
  expert_id expert;
  node_id to;
  std::optional<node_id> from;  // which replica is given up; none: the one on the fullest node
  bool dry_run{};
};
struct replicate_expert {
  expert_id expert;
  std::uint32_t count{};
  bool dry_run{};
};
struct pin_expert {
  expert_id expert;
  bool pinned{true};  // false: the planner may move it again, also off nodes that an operator chose
  bool dry_run{};
};
// restore and add bring it back into the gates once a replica is ready.
struct change_presence {
  enum class verb : std::uint8_t { prune, restore, add };
  expert_id expert;
  verb what{verb::prune};
  bool dry_run{};
  bool by_policy{};
};
struct found_expert {
  expert_id expert;
  sha256_digest digest;
};
// Changes the experts whose digest in that folder differs from the served one.
struct refresh_weights {
  std::string folder;
  std::optional<layer_id> layer;  // none: all
  bool dry_run{};
  // What was found there, ordered by expert, or why it is refused. The command comes with it: whoever reads folders is
  // not the core.
  result<std::vector<found_expert>> found{};
};
// Looks into that folder again and again, and refreshes from it what has changed.
struct schedule_refresh {
  std::chrono::milliseconds every{};  // 0, and no batches either: no longer
  std::string folder;
  bool paused{};  // only pauses what is scheduled; the other members say nothing
  bool dry_run{};
  std::uint64_t every_batches{};  // also after so many; 0: does not matter
  std::uint32_t moves_max{};      // replicas that move each time to even out the loads
};
// Back to where the experts were in an earlier epoch, in which versions, and which of them took part.
struct roll_back_placement {
  epoch_number epoch;
  bool dry_run{};
};
// Where these experts are to be, as a planner outside says; the others stay.
struct apply_placement {
  struct placed_expert {
    expert_id expert;
    std::vector<node_id> nodes;
  };
  std::vector<placed_expert> experts;
  bool dry_run{};
};
struct cancel_operation {
  std::string operation;  // "op-7"
  bool dry_run{};
};

struct admin_command {
  std::string peer;
  std::string command_id;  // the same id again returns the same answer and does nothing twice
  std::variant<drain_node, undrain_node, remove_node, stop_cluster, migrate_expert, replicate_expert, pin_expert,
               change_presence, refresh_weights, roll_back_placement, apply_placement, schedule_refresh,
               cancel_operation>
      what;
  std::string who{};          // the key's user, or the admin socket
  std::int64_t at_unix_ms{};  // wall clock: for people only
};

// -- the store ----------------------------------------------------------------------------------------------------

// What became of output::persist number `ticket`.
struct persist_result {
  std::uint64_t ticket{};
  std::optional<error> failure;
};

using event = std::variant<join_request, leave_request, heartbeat, inventory_report, map_acknowledged, stats_report,
                           admin_command, persist_result>;

}  // namespace troupe::coordinator
