// A node's link to its coordinator, the same for expert nodes and routers: handshake, joining and joining again,
// heartbeats, maps and orders. It never gives up: while no coordinator answers, everything else goes on.
//
// Threads: the link has two of its own, one for control and one for heartbeats. All handlers are called on the control
// thread, one at a time; they must not block, nor destroy the link. All public functions may be called from any thread,
// handlers included (except stop and the destructor).
//
// Identity: a node keeps its incarnation over a lost connection and over a restart of the coordinator. When the
// coordinator has declared it lost, it joins again under a new incarnation that `next_incarnation` chooses, and keeps
// what it holds.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/wire/socket.hpp"

namespace troupe::proto {
class ColdExperts;
class FreeSlot;
class Inventory;
class LoadExpert;
class NodeQuery;
class NodeStats;
}  // namespace troupe::proto

namespace troupe::node {

// What a node tells the coordinator about itself when it joins.
struct node_description {
  node_id name;
  node_role role{node_role::expert};
  std::string data_address;  // where routers (or, for a router, clients) reach it
  std::string peer_address;  // expert nodes: where others fetch bundles
  std::string http_address;
  std::string public_key;  // Z85; empty on ipc
  std::string machine_id;  // wire::machine_id()
  std::string zone;        // failure domain; empty: the machine
  std::string device;      // "cpu", "cuda:0"
  std::string dtype;       // "f32" or "bf16"
  std::uint32_t slots_total{};
  std::uint64_t slot_bytes{};
  std::string model_fingerprint;
};

struct coordinator_link_options {
  std::string control_address;     // the coordinator's
  std::string heartbeat_address;   // empty: the control address's sibling (wire::sibling_address)
  std::string cluster_id;          // empty: not known yet, taken from the coordinator
  incarnation_number incarnation;  // of the first join
  node_description self;
  std::optional<wire::curve_client> keys;  // for TCP
};

struct coordinator_state {
  bool connected{};  // joined, and heartbeats are answered
  std::chrono::steady_clock::time_point since;
};

// Heartbeats to the coordinator, since the start.
struct heartbeat_totals {
  std::chrono::nanoseconds round_trip{};  // of the newest that was answered; 0: none was
  std::uint64_t missed{};                 // answers that did not come, while joined
};

// Empty handlers are skipped.
struct coordinator_link_handlers {
  // A map that is newer than all before. Call acknowledge() when the node works by it and by no older one.
  std::function<void(std::shared_ptr<const cluster_map>)> on_map;
  // Expert nodes. Orders that are late or doubled, by (term, command), do not get here.
  std::function<void(const proto::LoadExpert&)> on_load;
  std::function<void(const proto::FreeSlot&)> on_free;
  // Answer with report_inventory(). Also called after each join.
  std::function<void()> on_inventory_request;
  // Routers: all experts that are cold now. Comes while stats say that they know of others.
  std::function<void(const proto::ColdExperts&)> on_cold;
  // The answer to send_query(): the JSON document, or the error.
  std::function<void(std::uint64_t query_id, result<std::string> json)> on_query_reply;
  std::function<void(const coordinator_state&)> on_coordinator_state;
  // The join was refused. `permanent`: asking again is of no use (wrong cluster or version, removed by an operator);
  // the link goes on asking, slowly, for the case that the operator repairs it. A daemon may prefer to exit.
  std::function<void(const error& reason, bool permanent)> on_refused;
  // Something arrived that cannot be used (damaged, malformed, from an older coordinator) and was dropped. For the log.
  std::function<void(const error&)> on_bad_message;
  // The coordinator has declared this incarnation lost: choose the next one, larger than `old`. Totals in NodeStats
  // start again from here. Empty: old + 1.
  std::function<incarnation_number(incarnation_number old)> next_incarnation;
};

class coordinator_link {
 public:
  // Starts the threads; whether a coordinator answers shows in on_coordinator_state. invalid_request: an address.
  [[nodiscard]] static result<std::unique_ptr<coordinator_link>> start(std::shared_ptr<wire::context> ctx,
                                                                       coordinator_link_options options,
                                                                       coordinator_link_handlers handlers);
  // As stop(farewell::none).
  ~coordinator_link();
  coordinator_link(const coordinator_link&) = delete;
  coordinator_link& operator=(const coordinator_link&) = delete;

  enum class farewell : std::uint8_t { none, leave };
  // Ends both threads; with `leave` the coordinator is told first (if it is there). No handler is called afterwards.
  void stop(farewell say);

  // The node works by this map: tells the coordinator, and goes into heartbeats. Sent again after each join.
  // `uses_since`: the oldest map by whose expert versions something still goes (routers); none: this one.
  void acknowledge(term_number term, epoch_number epoch, std::optional<epoch_number> uses_since = std::nullopt);
  // Keeps the newest inventory and sends it, now or after the next join. Only `slots` is looked at: node, incarnation,
  // sequence and term are filled in here.
  void report_inventory(const proto::Inventory& inventory);
  // All but `node` and `incarnation`, which are filled in here. unavailable when not joined:
  // report the same experts again next time; overloaded when limits::link_queue_max messages wait.
  result<void> send_stats(const proto::NodeStats& stats);
  // unavailable ("coordinator lost since ...") or overloaded, as above. An answer may be lost with the connection: wait
  // no longer than limits::coordinator_query_timeout.
  result<void> send_query(const proto::NodeQuery& query);

  [[nodiscard]] incarnation_number incarnation() const;
  // As given, or as learned from the coordinator; empty before.
  [[nodiscard]] std::string cluster_id() const;
  [[nodiscard]] coordinator_state state() const;
  [[nodiscard]] heartbeat_totals heartbeats() const;
  // The newest map received; nullptr before the first.
  [[nodiscard]] std::shared_ptr<const cluster_map> map() const;

 private:
  class impl;
  explicit coordinator_link(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::node
