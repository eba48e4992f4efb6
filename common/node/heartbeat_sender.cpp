#include "common/node/heartbeat_sender.hpp"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe::node {

heartbeat_sender::heartbeat_sender(std::shared_ptr<wire::context> ctx, std::string address,
                                   wire::socket_options options, std::function<void()> on_news, wire::wake_signal wake)
    : context_(std::move(ctx)),
      address_(std::move(address)),
      options_(std::move(options)),
      on_news_(std::move(on_news)),
      wake_(std::move(wake)) {}

result<std::unique_ptr<heartbeat_sender>> heartbeat_sender::start(std::shared_ptr<wire::context> ctx,
                                                                  std::string address, wire::socket_options options,
                                                                  std::function<void()> on_news) {
  auto wake = wire::wake_signal::make();
  if (!wake) return fail(std::move(wake.error()));
  std::unique_ptr<heartbeat_sender> made(new heartbeat_sender(std::move(ctx), std::move(address), std::move(options),
                                                              std::move(on_news), std::move(*wake)));
  made->thread_ = std::thread([sender = made.get()] {
    ::pthread_setname_np(::pthread_self(), "heartbeat");
    sender->run();
  });
  return made;
}

heartbeat_sender::~heartbeat_sender() {
  stopping_.store(true);
  wake_.wake();
  if (thread_.joinable()) thread_.join();
}

void heartbeat_sender::begin_session(identity who) {
  {
    const std::lock_guard lock(mutex_);
    session_ = std::move(who);
    ++generation_;
    last_heard_ = clock::now();
    join_again_ = false;
  }
  wake_.wake();
}

void heartbeat_sender::end_session() {
  {
    const std::lock_guard lock(mutex_);
    if (!session_) return;
    session_.reset();
    ++generation_;
    join_again_ = false;
  }
  wake_.wake();
}

heartbeat_sender::clock::time_point heartbeat_sender::last_heard() const {
  const std::lock_guard lock(mutex_);
  return last_heard_;
}

heartbeat_totals heartbeat_sender::totals() const {
  const std::lock_guard lock(mutex_);
  return totals_;
}

bool heartbeat_sender::take_join_again() {
  const std::lock_guard lock(mutex_);
  return std::exchange(join_again_, false);
}

std::uint64_t heartbeat_sender::generation() const {
  const std::lock_guard lock(mutex_);
  return generation_;
}

void heartbeat_sender::run() {
  wire::poller idle;
  idle.add(wake_);
  while (!stopping_.load()) {
    std::optional<identity> who;
    std::uint64_t generation = 0;
    {
      const std::lock_guard lock(mutex_);
      who = session_;
      generation = generation_;
    }
    if (who) {
      serve(*who, generation);
    } else {
      idle.wait(limits::idle_poll);
      wake_.clear();
    }
  }
}

// One connection: ends with the session, and when the coordinator is silent. The next one is tried at once; libzmq's
// own pauses between attempts may be longer than the coordinator's patience.
void heartbeat_sender::serve(const identity& who, std::uint64_t generation) {
  auto connection = wire::socket::open(context_, wire::socket_kind::dealer, options_);
  wire::poller waiting;
  const auto wake_number = waiting.add(wake_);
  if (!connection || !connection->connect(address_)) {
    waiting.wait(limits::heartbeat_suspect_after);
    wake_.clear();
    return;
  }
  waiting.add(*connection);
  const auto opened = clock::now();
  auto next_beat = opened;
  while (!stopping_.load() && this->generation() == generation) {
    const auto now = clock::now();
    count_missed(now);
    if (now - std::max(opened, last_heard()) > limits::heartbeat_suspect_after) return;
    if (now >= next_beat) {
      proto::Heartbeat beat;
      beat.set_cluster_id(who.cluster_id);
      beat.set_node(who.node.value);
      beat.set_incarnation(who.incarnation.value);
      beat.set_sequence(++sequence_);
      beat.set_epoch(epoch_.load());
      // Not connected yet: look again soon. Connected but full: this beat is lost, the next one counts.
      sent_ = now;
      const bool sent = wire::outgoing_message().send(*connection, beat).has_value();
      next_beat = now + (sent ? limits::heartbeat_interval : limits::coordinator_retry_min);
    }
    waiting.wait(next_beat - now);
    if (waiting.readable(wake_number)) wake_.clear();
    read_answers(*connection, who, generation);
  }
}

void heartbeat_sender::count_missed(clock::time_point now) {
  const std::lock_guard lock(mutex_);
  missed_.look(now - last_heard_);
  totals_.missed = missed_.total();
}

void heartbeat_sender::read_answers(wire::socket& from, const identity& who, std::uint64_t generation) {
  bool news = false;
  while (auto got = wire::receive(from)) {
    proto::HeartbeatReply reply;
    if (!got->message || !got->message->parse(reply) || reply.cluster_id() != who.cluster_id) continue;
    const std::lock_guard lock(mutex_);
    if (generation_ != generation) return;
    last_heard_ = clock::now();
    if (reply.sequence() == sequence_) totals_.round_trip = last_heard_ - sent_;
    if (reply.join_again() && !std::exchange(join_again_, true)) news = true;
  }
  if (news && on_news_) on_news_();
}

}  // namespace troupe::node
