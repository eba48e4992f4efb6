// The control thread of coordinator_link: one connection after the other to the coordinator, each of them
//
//   connecting -> greeting (Hello/Welcome) -> joining (Join/JoinReply) -> joined -> over, then a pause and anew
//
// A connection is never used twice: a fresh socket connects at once and cannot hold messages of an earlier session.
#pragma once

#include <atomic>
#include <chrono>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>

#include "common/node/coordinator_link.hpp"
#include "common/node/heartbeat_sender.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe::node {

class control_loop {
 public:
  using clock = std::chrono::steady_clock;

  control_loop(std::shared_ptr<wire::context> ctx, coordinator_link_options options, coordinator_link_handlers handlers,
               wire::wake_signal wake);

  // Before run(), once. @pre outlives the loop.
  void use(heartbeat_sender& heartbeats) { heartbeats_ = &heartbeats; }
  // Until stop().
  void run();

  // -- any thread
  void stop(bool say_leave);
  void wake() const { wake_.wake(); }
  void acknowledge(term_number term, epoch_number epoch, epoch_number uses_since);
  void report_inventory(const proto::Inventory& inventory);
  // Stats and queries.
  result<void> enqueue(proto::NodeToCoordinator message);
  [[nodiscard]] incarnation_number incarnation() const;
  [[nodiscard]] std::string cluster_id() const;
  [[nodiscard]] coordinator_state state() const;
  [[nodiscard]] std::shared_ptr<const cluster_map> map() const;

 private:
  enum class phase : std::uint8_t { connecting, greeting, joining, joined, over };

  void serve_connection();
  void end_session();
  void handle_link_events(wire::link_monitor& monitor);
  void handle_deadlines(clock::time_point now);
  [[nodiscard]] clock::time_point next_deadline() const;
  void read_messages(wire::socket& connection);
  void handle(const proto::CoordinatorToNode& message);
  void handle_welcome(const proto::Welcome& welcome);
  void handle_join_reply(const proto::JoinReply& reply);
  void handle_refusal(const proto::Error& refusal);
  void handle_map(const proto::ClusterMap& message);
  void handle_query_reply(const proto::NodeQueryReply& reply);
  template <class Order>
  [[nodiscard]] bool is_next_order(const Order& order);
  void send_hello();
  void send_join();
  void send_pending();
  void say_goodbye();
  // False when the message could not be sent now.
  bool send(const proto::NodeToCoordinator& message);
  bool send_acknowledgement();
  bool send_inventory();
  bool send_queued();
  void take_next_incarnation();
  void set_connected(bool connected);
  void bad_message(error reason) const;
  [[nodiscard]] std::chrono::milliseconds pause_after_failure();

  // constant
  const std::shared_ptr<wire::context> context_;
  const coordinator_link_options options_;
  const coordinator_link_handlers handlers_;
  const wire::wake_signal wake_;
  heartbeat_sender* heartbeats_{};

  // control thread
  phase phase_{phase::over};
  wire::socket* connection_{};
  clock::time_point deadline_{};       // of the phase; in `joining`: when to send Join again
  bool send_blocked_{};                // try again soon
  std::chrono::milliseconds pause_{};  // the last one, without jitter
  std::minstd_rand jitter_;
  std::pair<std::uint64_t, std::uint64_t> last_order_{};  // (term, command)
  term_number term_;                                      // newest seen
  std::uint64_t inventory_sequence_{};

  // any thread
  std::atomic<bool> stopping_{false};
  std::atomic<bool> say_leave_{false};

  // guarded by mutex_
  mutable std::mutex mutex_;
  incarnation_number incarnation_;
  std::string cluster_id_;
  coordinator_state state_;
  std::shared_ptr<const cluster_map> map_;
  struct acknowledgement {
    term_number term;
    epoch_number epoch;
    epoch_number uses_since;
  };
  std::optional<acknowledgement> acknowledged_;
  bool acknowledgement_pending_{};
  std::optional<proto::Inventory> inventory_;
  bool inventory_pending_{};
  bool joined_{};
  std::deque<proto::NodeToCoordinator> queue_;
};

}  // namespace troupe::node
