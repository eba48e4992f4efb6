// A coordinator that plays by script, for tests of whatever links to one.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "proto/node_coordinator.pb.h"
#include "tests/common/wire_fixture.hpp"

namespace troupe::node {

using namespace std::chrono_literals;
using wire::eventually;
using wire::must;

struct script {
  std::string cluster_id{"c1"};
  std::uint64_t term{1};
  bool answer_heartbeats{true};
  bool answer_hello{true};
  std::optional<proto::Error> refuse_join;
  std::uint64_t lost_incarnation{};  // declared lost: heartbeats say join again, joins are refused
};

// Welcomes, accepts joins, answers heartbeats; what it does otherwise is set by the test. Runs until destroyed, which
// looks to nodes like a killed coordinator.
class fake_coordinator {
 public:
  explicit fake_coordinator(const wire::temporary_folder& folder, script s = {}) : script_(std::move(s)) {
    must(control_.bind(folder.ipc("coordinator.control.ipc")));
    must(heartbeat_.bind(folder.ipc("coordinator.heartbeat.ipc")));
    thread_ = std::thread([this] { run(); });
  }
  ~fake_coordinator() {
    stopping_ = true;
    wake_.wake();
    thread_.join();
  }

  // Sends to the newest joined connection, from the coordinator's thread.
  void send(proto::CoordinatorToNode message) {
    const std::lock_guard lock(mutex_);
    outbox_.push_back(std::move(message));
    wake_.wake();
  }
  void change(const std::function<void(script&)>& f) {
    const std::lock_guard lock(mutex_);
    f(script_);
  }
  std::vector<proto::NodeToCoordinator> got(proto::NodeToCoordinator::BodyCase kind) const {
    const std::lock_guard lock(mutex_);
    std::vector<proto::NodeToCoordinator> found;
    for (const auto& message : messages_) {
      if (message.body_case() == kind) found.push_back(message);
    }
    return found;
  }
  std::vector<proto::Heartbeat> heartbeats() const {
    const std::lock_guard lock(mutex_);
    return heartbeats_;
  }
  std::size_t joins() const { return got(proto::NodeToCoordinator::kJoin).size(); }

 private:
  void run() {
    wire::poller waiting;
    waiting.add(control_);
    waiting.add(heartbeat_);
    waiting.add(wake_);
    while (!stopping_) {
      waiting.wait(1s);
      wake_.clear();
      const std::lock_guard lock(mutex_);
      while (auto got = wire::receive(control_)) handle(*got);
      while (auto got = wire::receive(heartbeat_)) beat(*got);
      if (peer_.empty()) continue;
      for (auto& message : outbox_) say(control_, message, peer_);
      outbox_.clear();
    }
  }

  // A node may have gone before its answer.
  template <class Message>
  static void say(wire::socket& to, const Message& message, const std::string& peer) {
    const auto sent = wire::outgoing_message().send(to, message, peer);
    if (!sent && sent.error().code != errc::unavailable) must(sent);
  }

  void handle(const wire::received& got) {
    proto::NodeToCoordinator message;
    must(got.message->parse(message));
    messages_.push_back(message);
    proto::CoordinatorToNode answer;
    if (message.has_hello() && script_.answer_hello) {
      answer.mutable_welcome()->set_cluster_id(script_.cluster_id);
    } else if (message.has_join()) {
      auto& reply = *answer.mutable_join_reply();
      reply.set_term(script_.term);
      reply.set_accepted(!script_.refuse_join);
      if (script_.refuse_join) *reply.mutable_error() = *script_.refuse_join;
      if (message.join().incarnation() == script_.lost_incarnation) {
        reply.set_accepted(false);
        reply.mutable_error()->set_code(proto::STALE_EPOCH);
      }
      if (reply.accepted()) peer_ = got.routing_id;
    } else {
      return;
    }
    say(control_, answer, got.routing_id);
  }

  void beat(const wire::received& got) {
    proto::Heartbeat beat;
    must(got.message->parse(beat));
    heartbeats_.push_back(beat);
    if (!script_.answer_heartbeats) return;
    proto::HeartbeatReply reply;
    reply.set_cluster_id(script_.cluster_id);
    reply.set_sequence(beat.sequence());
    reply.set_term(script_.term);
    reply.set_join_again(beat.incarnation() == script_.lost_incarnation);
    say(heartbeat_, reply, got.routing_id);
  }

  std::shared_ptr<wire::context> context_ = must(wire::context::make());
  wire::socket control_ = must(wire::socket::open(context_, wire::socket_kind::router));
  wire::socket heartbeat_ = must(wire::socket::open(context_, wire::socket_kind::router));
  wire::wake_signal wake_ = must(wire::wake_signal::make());
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  script script_;
  std::string peer_;
  std::vector<proto::NodeToCoordinator> messages_;
  std::vector<proto::Heartbeat> heartbeats_;
  std::vector<proto::CoordinatorToNode> outbox_;
  std::thread thread_;
};

}  // namespace troupe::node
