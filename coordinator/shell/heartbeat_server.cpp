#include "coordinator/shell/heartbeat_server.hpp"

#include <atomic>
#include <mutex>
#include <set>
#include <thread>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/server_socket.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe::coordinator {

struct heartbeat_server::state {
  state(heartbeat_server_options o, wire::socket s, wire::wake_signal w)
      : options(std::move(o)), socket(std::move(s)), wake(std::move(w)) {}

  void run() {
    wire::poller waiting;
    waiting.add(socket);
    waiting.add(wake);
    while (!stopping.load()) {
      waiting.wait(limits::heartbeat_lost_after);
      wake.clear();
      while (auto got = wire::receive(socket)) handle(*got);
    }
  }

  void handle(const wire::received& got) {
    proto::Heartbeat beat;
    // What is no heartbeat gets no answer: there is nobody to help, and floods must not grow (faults.md W1).
    if (!got.message || !got.message->parse(beat)) return;
    proto::HeartbeatReply reply;
    reply.set_cluster_id(options.cluster_id);
    reply.set_sequence(beat.sequence());
    {
      std::lock_guard lock(mutex);
      reply.set_term(term.value);
      reply.set_epoch(epoch.value);
      bool ours = beat.cluster_id() == options.cluster_id;
      reply.set_join_again(!ours || !members.contains({{beat.node()}, {beat.incarnation()}}));
    }
    // A peer that has gone meanwhile needs no answer.
    static_cast<void>(wire::outgoing_message(got.message->kind()).send(socket, reply, got.routing_id));
    if (!reply.join_again()) options.on_heartbeat({{beat.node()}, {beat.incarnation()}, {beat.epoch()}});
  }

  heartbeat_server_options options;
  wire::socket socket;
  wire::wake_signal wake;
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  // guarded by mutex
  term_number term;
  epoch_number epoch;
  std::set<std::pair<node_id, incarnation_number>> members;

  std::thread thread;
};

result<std::unique_ptr<heartbeat_server>> heartbeat_server::bind(std::shared_ptr<wire::context> ctx,
                                                                 heartbeat_server_options options) {
  auto bound = wire::server_socket::bind(std::move(ctx), options.socket, options.address);
  if (!bound) return fail(std::move(bound.error()));
  auto s = std::make_unique<state>(std::move(options), std::move(bound->requests), std::move(bound->wake));
  return std::unique_ptr<heartbeat_server>(new heartbeat_server(std::move(s)));
}

heartbeat_server::heartbeat_server(std::unique_ptr<state> s) : state_(std::move(s)) {}

void heartbeat_server::start() {
  state_->thread = std::thread([s = state_.get()] { s->run(); });
}

heartbeat_server::~heartbeat_server() {
  state_->stopping.store(true);
  state_->wake.wake();
  if (state_->thread.joinable()) state_->thread.join();
}

void heartbeat_server::set_members(member_view view) {
  std::lock_guard lock(state_->mutex);
  state_->term = view.term;
  state_->epoch = view.epoch;
  state_->members = {view.members.begin(), view.members.end()};
}

}  // namespace troupe::coordinator
