#include "common/node/control_loop.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/limits.hpp"

namespace troupe::node {
namespace {

using std::chrono::milliseconds;

errc code_of(const proto::Error& message) {
  const auto code = message.code();
  return code == proto::ERROR_UNSPECIFIED ? errc::internal : static_cast<errc>(code);
}

error to_error(const proto::Error& message) { return {code_of(message), message.message()}; }

}  // namespace

control_loop::control_loop(std::shared_ptr<wire::context> ctx, coordinator_link_options options,
                           coordinator_link_handlers handlers, wire::wake_signal wake)
    : context_(std::move(ctx)),
      options_(std::move(options)),
      handlers_(std::move(handlers)),
      wake_(std::move(wake)),
      jitter_(static_cast<std::minstd_rand::result_type>(options_.incarnation.value ^
                                                         std::hash<node_id>{}(options_.self.name))),
      incarnation_(options_.incarnation),
      cluster_id_(options_.cluster_id),
      state_{false, clock::now()} {}

// -- the loop -----------------------------------------------------------------------------------------------------

void control_loop::run() {
  wire::poller idle;
  idle.add(wake_);
  while (!stopping_.load()) {
    serve_connection();
    end_session();
    const auto until = clock::now() + pause_after_failure();
    while (!stopping_.load() && clock::now() < until) {
      idle.wait(until - clock::now());
      wake_.clear();
    }
  }
}

void control_loop::serve_connection() {
  wire::socket_options settings;
  settings.client = options_.keys;
  auto connection = wire::socket::open(context_, wire::socket_kind::dealer, settings);
  if (!connection) return bad_message(std::move(connection.error()));
  auto monitor = wire::link_monitor::watch(*connection);
  if (!monitor) return bad_message(std::move(monitor.error()));
  if (auto begun = connection->connect(options_.control_address); !begun) return bad_message(std::move(begun.error()));

  connection_ = &*connection;
  phase_ = phase::connecting;
  deadline_ = clock::now() + limits::connect_timeout + limits::handshake_timeout;
  wire::poller waiting;
  waiting.add(*connection);
  waiting.add(monitor->events());
  waiting.add(wake_);
  while (!stopping_.load() && phase_ != phase::over) {
    waiting.wait(next_deadline() - clock::now());
    wake_.clear();
    read_messages(*connection);
    handle_link_events(*monitor);
    handle_deadlines(clock::now());
    send_pending();
  }
  if (stopping_.load()) say_goodbye();
  connection_ = nullptr;
}

void control_loop::end_session() {
  phase_ = phase::over;
  heartbeats_->end_session();
  {
    const std::lock_guard lock(mutex_);
    joined_ = false;
    queue_.clear();
  }
  if (!stopping_.load()) set_connected(false);
}

void control_loop::handle_link_events(wire::link_monitor& monitor) {
  while (auto event = monitor.next()) {
    switch (event->kind) {
      case wire::link_event_kind::ready:
        if (phase_ == phase::connecting) send_hello();
        break;
      case wire::link_event_kind::refused:
        if (handlers_.on_refused) {
          handlers_.on_refused({errc::permission_denied,
                                fmt::format("the coordinator at {} does not know this node's key; add it to its "
                                            "authorized keys",
                                            options_.control_address)},
                               true);
        }
        [[fallthrough]];
      case wire::link_event_kind::disconnected:
      case wire::link_event_kind::connect_failed:
      case wire::link_event_kind::handshake_failed:
        phase_ = phase::over;
        break;
      case wire::link_event_kind::connected:
        break;
    }
  }
}

control_loop::clock::time_point control_loop::next_deadline() const {
  if (send_blocked_) return clock::now() + limits::coordinator_retry_min;
  if (phase_ == phase::joined) return heartbeats_->last_heard() + limits::heartbeat_lost_after;
  return deadline_;
}

void control_loop::handle_deadlines(clock::time_point now) {
  switch (phase_) {
    case phase::connecting:
    case phase::greeting:
      if (now >= deadline_) phase_ = phase::over;
      break;
    case phase::joining:
      if (now >= deadline_) send_join();
      break;
    case phase::joined:
      if (heartbeats_->take_join_again()) {
        send_join();
      } else if (now >= heartbeats_->last_heard() + limits::heartbeat_lost_after) {
        phase_ = phase::over;
      }
      break;
    case phase::over:
      break;
  }
}

milliseconds control_loop::pause_after_failure() {
  pause_ = std::clamp(pause_ * 2, limits::coordinator_retry_min, limits::coordinator_retry_max);
  // A quarter less to nothing less: nodes that lost the same coordinator do not come back in step.
  return pause_ - milliseconds(jitter_() % static_cast<std::uint64_t>(pause_.count() / 4 + 1));
}

// -- what arrives -------------------------------------------------------------------------------------------------

void control_loop::read_messages(wire::socket& connection) {
  while (phase_ != phase::over && !stopping_.load()) {
    auto got = wire::receive(connection);
    if (!got) return;
    if (!got->message) {
      bad_message(std::move(got->message.error()));
      continue;
    }
    proto::CoordinatorToNode message;
    if (auto parsed = got->message->parse(message); !parsed) {
      bad_message(std::move(parsed.error()));
      continue;
    }
    handle(message);
  }
}

void control_loop::handle(const proto::CoordinatorToNode& message) {
  using body = proto::CoordinatorToNode;
  switch (message.body_case()) {
    case body::kWelcome:
      return handle_welcome(message.welcome());
    case body::kJoinReply:
      return handle_join_reply(message.join_reply());
    case body::kRefused:
      return handle_refusal(message.refused());
    default:
      break;
  }
  if (phase_ != phase::joined) return;
  switch (message.body_case()) {
    case body::kLoad:
      if (is_next_order(message.load()) && handlers_.on_load) handlers_.on_load(message.load());
      break;
    case body::kFree:
      if (is_next_order(message.free()) && handlers_.on_free) handlers_.on_free(message.free());
      break;
    case body::kMap:
      handle_map(message.map());
      break;
    case body::kReportInventory:
      if (handlers_.on_inventory_request) handlers_.on_inventory_request();
      break;
    case body::kCold:
      if (message.cold().term() >= term_.value && handlers_.on_cold) handlers_.on_cold(message.cold());
      break;
    case body::kQueryReply:
      handle_query_reply(message.query_reply());
      break;
    default:
      break;
  }
}

void control_loop::handle_welcome(const proto::Welcome& welcome) {
  if (phase_ != phase::greeting) return bad_message({errc::invalid_request, "a Welcome that nobody waits for"});
  {
    const std::lock_guard lock(mutex_);
    if (cluster_id_.empty()) cluster_id_ = welcome.cluster_id();
  }
  if (cluster_id() != welcome.cluster_id()) {
    proto::Error other;
    other.set_code(proto::WRONG_CLUSTER);
    other.set_message(
        fmt::format("the coordinator at {} belongs to cluster {}, this node to {}; check --coordinator "
                    "and --data-dir",
                    options_.control_address, welcome.cluster_id(), cluster_id()));
    return handle_refusal(other);
  }
  send_join();
}

void control_loop::handle_join_reply(const proto::JoinReply& reply) {
  if (phase_ != phase::joining) return bad_message({errc::invalid_request, "a JoinReply that nobody waits for"});
  if (!reply.accepted()) return handle_refusal(reply.error());
  if (reply.term() < term_.value) {
    bad_message({errc::stale_epoch, fmt::format("the coordinator at {} has term {}, but term {} was seen; stop the "
                                                "older one",
                                                options_.control_address, reply.term(), term_.value)});
    phase_ = phase::over;
    return;
  }
  term_.value = reply.term();
  phase_ = phase::joined;
  pause_ = milliseconds{0};
  heartbeats_->begin_session({cluster_id(), options_.self.name, incarnation()});
  {
    const std::lock_guard lock(mutex_);
    joined_ = true;
    acknowledgement_pending_ = acknowledged_.has_value();
    inventory_pending_ = inventory_.has_value();
  }
  set_connected(true);
  if (options_.self.role == node_role::expert && handlers_.on_inventory_request) handlers_.on_inventory_request();
}

void control_loop::handle_refusal(const proto::Error& refusal) {
  // Handshake lost (the coordinator restarted behind a proxy, say): a new connection says hello again.
  if (code_of(refusal) == errc::handshake_required || phase_ == phase::connecting) {
    phase_ = phase::over;
    return;
  }
  if (phase_ == phase::joined) return bad_message(to_error(refusal));
  if (phase_ == phase::joining && code_of(refusal) == errc::stale_epoch) {
    take_next_incarnation();
    return send_join();
  }
  set_connected(false);
  const bool permanent = refusal.retry_after_ms() == 0 && !is_retryable(code_of(refusal));
  const auto longest = limits::refused_retry;
  const auto asked = milliseconds(std::min<std::uint64_t>(refusal.retry_after_ms(), longest.count()));
  deadline_ = clock::now() + (permanent ? longest : std::max(asked, limits::coordinator_retry_min));
  if (handlers_.on_refused) handlers_.on_refused(to_error(refusal), permanent);
}

void control_loop::handle_map(const proto::ClusterMap& message) {
  auto converted = from_proto(message);
  if (!converted) return bad_message(std::move(converted.error()));
  if (converted->cluster_id != cluster_id()) {
    return bad_message({errc::wrong_cluster, fmt::format("a map of cluster {} was ignored", converted->cluster_id)});
  }
  auto fresh = std::make_shared<const cluster_map>(std::move(*converted));
  {
    const std::lock_guard lock(mutex_);
    if (map_ != nullptr && !map_->is_older_than(*fresh)) {
      // Sent again, since our acknowledgement was lost or is late.
      acknowledgement_pending_ = acknowledged_.has_value();
      return;
    }
    map_ = fresh;
  }
  term_ = std::max(term_, fresh->term);
  if (handlers_.on_map) handlers_.on_map(std::move(fresh));
}

void control_loop::handle_query_reply(const proto::NodeQueryReply& reply) {
  if (!handlers_.on_query_reply) return;
  if (reply.has_error()) return handlers_.on_query_reply(reply.query_id(), fail(to_error(reply.error())));
  handlers_.on_query_reply(reply.query_id(), reply.json());
}

// Orders count in rising (term, command); a late or doubled one must not undo a newer one.
template <class Order>
bool control_loop::is_next_order(const Order& order) {
  const std::pair<std::uint64_t, std::uint64_t> number{order.term(), order.command()};
  if (number <= last_order_ || number.first < term_.value) return false;
  last_order_ = number;
  term_.value = number.first;
  return true;
}

// -- what is sent -------------------------------------------------------------------------------------------------

bool control_loop::send(const proto::NodeToCoordinator& message) {
  const auto sent = wire::outgoing_message().send(*connection_, message);
  if (sent) return true;
  if (is_retryable(sent.error().code)) {
    send_blocked_ = true;
    return false;
  }
  bad_message(sent.error());
  return true;
}

void control_loop::send_hello() {
  proto::NodeToCoordinator message;
  auto& hello = *message.mutable_hello();
  hello.set_wire_major(limits::wire_version_major);
  hello.set_wire_minor(limits::wire_version_minor);
  hello.set_cluster_id(cluster_id());
  hello.set_node(options_.self.name.value);
  hello.set_incarnation(incarnation().value);
  hello.set_software(limits::software);
  phase_ = send(message) ? phase::greeting : phase::over;
  deadline_ = clock::now() + limits::handshake_timeout;
}

void control_loop::send_join() {
  const auto& self = options_.self;
  proto::NodeToCoordinator message;
  auto& join = *message.mutable_join();
  join.set_cluster_id(cluster_id());
  join.set_node(self.name.value);
  join.set_role(static_cast<proto::NodeRole>(self.role));
  join.set_incarnation(incarnation().value);
  join.set_pid(static_cast<std::uint64_t>(::getpid()));
  join.set_data_address(self.data_address);
  join.set_http_address(self.http_address);
  join.set_public_key(self.public_key);
  join.set_machine_id(self.machine_id);
  join.set_zone(self.zone);
  join.set_device(self.device);
  join.set_dtype(self.dtype);
  join.set_slots_total(self.slots_total);
  join.set_slot_bytes(self.slot_bytes);
  join.set_model_fingerprint(self.model_fingerprint);
  join.set_peer_address(self.peer_address);
  heartbeats_->end_session();
  {
    const std::lock_guard lock(mutex_);
    joined_ = false;
  }
  phase_ = send(message) ? phase::joining : phase::over;
  deadline_ = clock::now() + limits::handshake_timeout;
}

void control_loop::send_pending() {
  send_blocked_ = false;
  if (phase_ != phase::joined) return;
  // An order: what the coordinator waits for first.
  static_cast<void>(send_acknowledgement() && send_inventory() && send_queued());
}

bool control_loop::send_acknowledgement() {
  proto::NodeToCoordinator message;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(acknowledgement_pending_, false)) return true;
    auto& ack = *message.mutable_map_ack();
    ack.set_node(options_.self.name.value);
    ack.set_incarnation(incarnation_.value);
    ack.set_term(acknowledged_->term.value);
    ack.set_epoch(acknowledged_->epoch.value);
    ack.set_uses_since(acknowledged_->uses_since.value);
  }
  if (send(message)) return true;
  const std::lock_guard lock(mutex_);
  acknowledgement_pending_ = true;
  return false;
}

bool control_loop::send_inventory() {
  proto::NodeToCoordinator message;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(inventory_pending_, false)) return true;
    auto& inventory = *message.mutable_inventory();
    inventory = *inventory_;
    inventory.set_incarnation(incarnation_.value);
  }
  message.mutable_inventory()->set_node(options_.self.name.value);
  message.mutable_inventory()->set_sequence(++inventory_sequence_);
  message.mutable_inventory()->set_term(term_.value);
  if (send(message)) return true;
  const std::lock_guard lock(mutex_);
  inventory_pending_ = true;
  return false;
}

bool control_loop::send_queued() {
  while (true) {
    proto::NodeToCoordinator message;
    {
      const std::lock_guard lock(mutex_);
      if (queue_.empty()) return true;
      message = std::move(queue_.front());
      queue_.pop_front();
      if (message.has_stats()) {
        message.mutable_stats()->set_node(options_.self.name.value);
        message.mutable_stats()->set_incarnation(incarnation_.value);
      }
    }
    if (send(message)) continue;
    const std::lock_guard lock(mutex_);
    queue_.push_front(std::move(message));
    return false;
  }
}

void control_loop::say_goodbye() {
  if (!say_leave_.load() || phase_ != phase::joined) return;
  proto::NodeToCoordinator message;
  message.mutable_leave()->set_node(options_.self.name.value);
  message.mutable_leave()->set_incarnation(incarnation().value);
  send(message);
}

void control_loop::take_next_incarnation() {
  const auto old = incarnation();
  auto next = handlers_.next_incarnation ? handlers_.next_incarnation(old) : incarnation_number{old.value + 1};
  // A smaller one would be taken for a late message of an earlier life.
  if (next <= old) next.value = old.value + 1;
  const std::lock_guard lock(mutex_);
  incarnation_ = next;
}

void control_loop::set_connected(bool connected) {
  coordinator_state now;
  {
    const std::lock_guard lock(mutex_);
    if (state_.connected == connected) return;
    // Lost since it was last heard, which is longer ago than we know of it.
    state_ = {connected, connected ? clock::now() : heartbeats_->last_heard()};
    now = state_;
  }
  if (handlers_.on_coordinator_state) handlers_.on_coordinator_state(now);
}

void control_loop::bad_message(error reason) const {
  if (handlers_.on_bad_message) handlers_.on_bad_message(reason);
}

// -- any thread ---------------------------------------------------------------------------------------------------

void control_loop::stop(bool say_leave) {
  say_leave_.store(say_leave);
  stopping_.store(true);
  wake_.wake();
}

void control_loop::acknowledge(term_number term, epoch_number epoch, epoch_number uses_since) {
  heartbeats_->set_epoch(epoch);
  {
    const std::lock_guard lock(mutex_);
    acknowledged_ = {term, epoch, uses_since};
    acknowledgement_pending_ = true;
  }
  wake_.wake();
}

void control_loop::report_inventory(const proto::Inventory& inventory) {
  {
    const std::lock_guard lock(mutex_);
    inventory_ = inventory;
    inventory_pending_ = true;
  }
  wake_.wake();
}

result<void> control_loop::enqueue(proto::NodeToCoordinator message) {
  {
    const std::lock_guard lock(mutex_);
    if (!joined_) {
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(clock::now() - state_.since).count();
      return fail(errc::unavailable, fmt::format("coordinator lost since {} s ({}); the nodes go on by their last map",
                                                 seconds, options_.control_address));
    }
    if (queue_.size() >= limits::link_queue_max) {
      return fail(errc::overloaded,
                  fmt::format("{} messages wait for the coordinator already; ask again later", queue_.size()));
    }
    queue_.push_back(std::move(message));
  }
  wake_.wake();
  return {};
}

incarnation_number control_loop::incarnation() const {
  const std::lock_guard lock(mutex_);
  return incarnation_;
}

std::string control_loop::cluster_id() const {
  const std::lock_guard lock(mutex_);
  return cluster_id_;
}

coordinator_state control_loop::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::shared_ptr<const cluster_map> control_loop::map() const {
  const std::lock_guard lock(mutex_);
  return map_;
}

}  // namespace troupe::node
