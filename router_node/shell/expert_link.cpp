#include "router_node/shell/expert_link.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "common/wire/address.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/scratch_message.hpp"
#include "proto/router_expert.pb.h"
#include "router_node/core/combine.hpp"

namespace troupe::router {
namespace {

constexpr auto no_tick = time_point::max();

std::uint64_t align(std::uint64_t bytes) { return (bytes + 63) & ~std::uint64_t{63}; }

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

error to_error(const proto::Error& e) {
  return {e.code() == proto::ERROR_UNSPECIFIED ? errc::internal : static_cast<errc>(e.code()), e.message()};
}

}  // namespace

// Memory that both sides have mapped. Kept alive by every answer that still lies in it.
struct expert_link::segment {
  wire::shared_segment memory;
  wire::range_pool pool;
};

struct expert_link::connection {
  wire::socket socket;
  std::optional<wire::link_monitor> monitor;   // watches the socket: ends before it
  std::shared_ptr<segment> offered;            // in Hello
  std::shared_ptr<segment> shared;             // the host has mapped it
  std::optional<std::size_t> socket_number{};  // in the poller
  std::optional<std::size_t> monitor_number{};
};

expert_link::expert_link(const link_environment& environment, link_listener& owner, const map_node& node)
    : environment_(environment), owner_(owner), node_(node), next_tick_(no_tick) {}

expert_link::~expert_link() = default;

// -- connecting ---------------------------------------------------------------------------------------------------

void expert_link::start(time_point now) { open(now); }

void expert_link::open(time_point now) {
  wire::socket_options options;
  if (wire::needs_curve(node_.data_address)) {
    if (!environment_.keys) return close("TCP needs keys and this router has none", now, limits::link_pause_max);
    options.client = wire::curve_client{.server_key = node_.public_key,
                                        .public_key = environment_.keys->public_key,
                                        .secret_key = environment_.keys->secret_key};
  }
  auto socket = wire::socket::open(environment_.context, wire::socket_kind::dealer, options);
  if (!socket) return close(socket.error().message, now, limits::link_pause_max);
  auto made = std::make_unique<connection>(connection{std::move(*socket), std::nullopt, nullptr, nullptr});
  auto monitor = wire::link_monitor::watch(made->socket);
  if (!monitor) return close(monitor.error().message, now, limits::link_pause_max);
  made->monitor.emplace(std::move(*monitor));
  if (auto connected = made->socket.connect(node_.data_address); !connected) {
    return close(connected.error().message, now, limits::link_pause_max);
  }
  connection_ = std::move(made);
  ++socket_generation_;
  state_ = connecting{};
  wake_at(now + limits::connect_timeout);
  // Once it was down, it stays down for the dispatcher until it is ready: requests do not wait for each attempt.
  if (!was_down_) owner_.on_link(node_.name, link_connecting{now});
}

void expert_link::close(const std::string& reason, time_point now, std::chrono::milliseconds pause) {
  if (connection_) {
    connection_.reset();
    ++socket_generation_;
  }
  sent_.clear();
  state_ = paused{};
  was_down_ = true;
  ++traffic_.reconnects;
  wake_at(now + pause);
  owner_.on_link(node_.name, link_down{reason});
}

void expert_link::close_and_retry(const std::string& reason, time_point now) {
  pause_ = std::clamp(2 * pause_, limits::link_pause_min, limits::link_pause_max);
  spdlog::warn("link to {} is down: {}", node_.name.value, reason);
  close(reason, now, pause_);
}

void expert_link::use(const map_node& node, time_point now) {
  const bool has_moved = node.data_address != node_.data_address || node.public_key != node_.public_key;
  node_ = node;
  const auto* current = std::get_if<ready>(&state_);
  if (has_moved) {
    close("the host has moved", now, {});
  } else if (current != nullptr && current->incarnation < node.incarnation) {
    close("the host has a new incarnation", now, {});
  }
}

void expert_link::add_to(wire::poller& poller) {
  if (!connection_) return;
  connection_->socket_number = poller.add(connection_->socket);
  connection_->monitor_number = poller.add(connection_->monitor->events());
}

void expert_link::handle(const wire::poller& poller, time_point now) {
  if (!connection_ || !connection_->socket_number) return;  // made since the poller was filled
  const bool has_events = poller.readable(*connection_->monitor_number);
  // Messages first: the answers of a host that has just died count.
  if (has_events || poller.readable(*connection_->socket_number)) read_messages(now);
  if (has_events) read_events(now);
}

void expert_link::read_messages(time_point now) {
  while (connection_) {
    auto got = wire::receive(connection_->socket);
    if (!got) return;
    if (got->message) {
      handle_message(std::move(*got->message), now);
      continue;
    }
    owner_.on_bad_message(node_.name, got->message.error());
    close_and_retry("damaged message: " + got->message.error().message, now);
  }
}

void expert_link::read_events(time_point now) {
  while (connection_) {
    const auto event = connection_->monitor->next();
    if (!event) return;
    handle_event(*event, now);
  }
}

void expert_link::handle_event(const wire::link_event& event, time_point now) {
  switch (event.kind) {
    case wire::link_event_kind::ready:
      if (std::holds_alternative<connecting>(state_)) greet(now);
      return;
    case wire::link_event_kind::disconnected:
      return close_and_retry("connection lost", now);
    case wire::link_event_kind::refused:
      return close("the host refuses this router's key", now, limits::link_pause_max);
    case wire::link_event_kind::handshake_failed:
      return close_and_retry("transport handshake failed", now);
    case wire::link_event_kind::connected:
    case wire::link_event_kind::connect_failed:  // libzmq goes on trying
      return;
  }
}

void expert_link::tick(time_point now) {
  if (next_tick_ > now) return;
  wake_at(no_tick);
  if (std::holds_alternative<paused>(state_)) return open(now);
  if (std::holds_alternative<connecting>(state_)) {
    // The socket goes on trying; requests stop waiting for it.
    if (!was_down_) {
      was_down_ = true;
      owner_.on_link(node_.name, link_down{"no connection"});
    }
    return;
  }
  if (std::holds_alternative<greeting>(state_)) return close_and_retry("no answer to the handshake", now);
  // Ready: a host answers every call, late if need be. One that lost an answer would keep its memory for ever.
  for (const auto& [id, sent] : sent_) {
    if (sent.overdue <= now) return close_and_retry("an answer is overdue", now);
  }
  wake_at(now + limits::answer_overdue_check);
}

// -- handshake ----------------------------------------------------------------------------------------------------

void expert_link::greet(time_point now) {
  proto::RouterToExpert envelope;
  auto& hello = *envelope.mutable_hello();
  hello.set_wire_major(limits::wire_version_major);
  hello.set_wire_minor(limits::wire_version_minor);
  hello.set_cluster_id(environment_.cluster_id());
  hello.set_node(environment_.self.value);
  hello.set_incarnation(environment_.incarnation().value);
  hello.set_software(limits::software);
  const bool is_local = !wire::needs_curve(node_.data_address) && node_.machine_id == wire::machine_id();
  if (is_local && environment_.segment_bytes > 0) {
    auto created = wire::shared_segment::create(environment_.cluster_id(), environment_.segment_bytes);
    if (created) {
      connection_->offered =
          std::make_shared<segment>(std::move(*created), wire::range_pool(environment_.segment_bytes));
      auto& offer = *hello.mutable_segment();
      offer.set_name(connection_->offered->memory.name());
      offer.set_bytes(environment_.segment_bytes);
      offer.set_machine_id(wire::machine_id());
    } else {
      spdlog::warn("no shared memory for {}, its rows travel over the socket: {}", node_.name.value,
                   created.error().message);
    }
  }
  wire::outgoing_message message;
  if (auto sent = message.send(connection_->socket, envelope); !sent) {
    return close_and_retry(sent.error().message, now);
  }
  state_ = greeting{};
  wake_at(now + limits::handshake_timeout);
}

void expert_link::on_welcome(const proto::Welcome& welcome, time_point now) {
  if (!std::holds_alternative<greeting>(state_)) return;
  if (welcome.wire_major() != limits::wire_version_major) {
    return close(
        fmt::format("it speaks wire version {}.x, this router {}.x", welcome.wire_major(), limits::wire_version_major),
        now, limits::link_pause_max);
  }
  if (welcome.cluster_id() != environment_.cluster_id() || welcome.node() != node_.name.value) {
    return close(fmt::format("{} of cluster {} answers at its address", welcome.node(), welcome.cluster_id()), now,
                 limits::link_pause_max);
  }
  if (connection_->offered) connection_->offered->memory.unlink();
  if (welcome.segment_mapped()) connection_->shared = connection_->offered;
  connection_->offered.reset();
  state_ = ready{.incarnation = {welcome.incarnation()}, .tensor_bytes_max = welcome.tensor_bytes_max()};
  was_down_ = false;
  pause_ = {};
  wake_at(now + limits::answer_overdue_check);
  spdlog::info("link to {} is ready, incarnation {}{}", node_.name.value, welcome.incarnation(),
               connection_->shared ? ", shared memory" : "");
  owner_.on_link(node_.name, link_ready{{welcome.incarnation()}});
}

// -- calls --------------------------------------------------------------------------------------------------------

// hidden, row_index, gate_weight and the answer, one behind the other in one range. False: no room, send parts.
bool expert_link::write_shared(const outgoing_call& call, const row_source& rows, proto::RouterToExpert& envelope,
                               sent_call& sent) {
  if (!connection_->shared) return false;
  auto& memory = *connection_->shared;
  const auto row_bytes = rows.hidden * bytes_per_element(rows.type);
  const auto hidden_bytes = call.rows.size() * row_bytes;
  const auto list_bytes = call.row_index.size() * sizeof(float);
  const auto range = memory.pool.take(2 * align(hidden_bytes) + 2 * align(list_bytes));
  if (!range) return false;
  auto& run = *envelope.mutable_run();
  const auto bytes = memory.memory.bytes();
  auto offset = range->offset;
  gather_rows(rows.matrix, row_bytes, call.rows, &bytes[offset]);
  const std::array<std::uint64_t, 2> shape{call.rows.size(), rows.hidden};
  wire::describe_shared(*run.mutable_hidden(), rows.type, shape, offset, hidden_bytes);
  offset += align(hidden_bytes);
  const std::array<std::uint64_t, 1> list_shape{call.row_index.size()};
  std::memcpy(&bytes[offset], call.row_index.data(), list_bytes);
  wire::describe_shared(*run.mutable_row_index(), dtype::i32, list_shape, offset, list_bytes);
  offset += align(list_bytes);
  std::memcpy(&bytes[offset], call.gate_weight.data(), list_bytes);
  wire::describe_shared(*run.mutable_gate_weight(), dtype::f32, list_shape, offset, list_bytes);
  offset += align(list_bytes);
  run.mutable_output()->set_offset(offset);
  run.mutable_output()->set_bytes(hidden_bytes);
  sent.range = range;
  sent.output_offset = offset;
  return true;
}

namespace {

void fill_envelope(const outgoing_call& call, proto::RunExperts& run) {
  run.set_request_id(call.id.request.value);
  run.set_attempt(call.id.attempt);
  run.set_term(call.term.value);
  run.set_epoch(call.epoch.value);
  run.set_layer(call.layer.value);
  run.set_timeout_ms(static_cast<std::uint64_t>(call.time_left.count()));
  for (const auto& e : call.experts) {
    auto& rows = *run.add_experts();
    rows.set_expert(e.expert);
    rows.set_version(e.version.value);
    rows.set_assignments(e.assignments);
  }
}

result<void> attach_parts(const outgoing_call& call, const row_source& rows, proto::RunExperts& run,
                          wire::outgoing_message& message) {
  const auto row_bytes = rows.hidden * bytes_per_element(rows.type);
  const auto bytes = call.rows.size() * row_bytes;
  const std::shared_ptr<std::byte[]> gathered(new std::byte[bytes]);
  gather_rows(rows.matrix, row_bytes, call.rows, gathered.get());
  const std::array<std::uint64_t, 2> shape{call.rows.size(), rows.hidden};
  const std::array<std::uint64_t, 1> list_shape{call.row_index.size()};
  auto attached = message.attach(*run.mutable_hidden(), rows.type, shape, {gathered.get(), bytes}, gathered);
  if (!attached) return attached;
  attached = message.attach(*run.mutable_row_index(), dtype::i32, list_shape, bytes_of(call.row_index));
  if (!attached) return attached;
  return message.attach(*run.mutable_gate_weight(), dtype::f32, list_shape, bytes_of(call.gate_weight));
}

}  // namespace

result<void> expert_link::send(const outgoing_call& call, const row_source& rows, time_point now) {
  const auto* current = std::get_if<ready>(&state_);
  if (current == nullptr || current->incarnation != call.incarnation) {
    return fail(errc::unavailable, "the link is not ready");
  }
  const auto bytes = call.rows.size() * rows.hidden * bytes_per_element(rows.type);
  if (bytes > current->tensor_bytes_max) {
    return fail(errc::too_large, fmt::format("{} bytes of rows, the host takes {}", bytes, current->tensor_bytes_max));
  }
  wire::scratch_message<proto::RouterToExpert> scratch;
  auto& envelope = *scratch;
  fill_envelope(call, *envelope.mutable_run());
  sent_call sent{.rows = static_cast<std::uint32_t>(call.rows.size()),
                 .hidden = rows.hidden,
                 .type = rows.type,
                 .range = std::nullopt,
                 .output_offset = 0,
                 .overdue = now + call.time_left + limits::answer_overdue_after};
  wire::outgoing_message message;
  if (write_shared(call, rows, envelope, sent)) {
    ++traffic_.shared_calls;
  } else if (auto attached = attach_parts(call, rows, *envelope.mutable_run(), message); !attached) {
    return attached;
  }
  if (auto done = message.send(connection_->socket, envelope); !done) {
    if (sent.range) connection_->shared->pool.give_back(*sent.range);
    return done;
  }
  traffic_.bytes_out += bytes + 2 * call.row_index.size() * sizeof(float);
  sent_.emplace(call.id, sent);
  return {};
}

// -- answers ------------------------------------------------------------------------------------------------------

void expert_link::handle_message(wire::incoming_message message, time_point now) {
  wire::scratch_message<proto::ExpertToRouter> scratch;
  auto& envelope = *scratch;
  if (auto parsed = message.parse(envelope); !parsed) {
    owner_.on_bad_message(node_.name, parsed.error());
    return close_and_retry("malformed message: " + parsed.error().message, now);
  }
  if (envelope.has_welcome()) return on_welcome(envelope.welcome(), now);
  if (envelope.has_done()) return on_done(envelope.done(), std::move(message));
  const auto reason = to_error(envelope.refused());
  owner_.on_bad_message(node_.name, reason);
  close_and_retry("refused: " + reason.message, now);
}

void expert_link::on_done(const proto::ExpertsDone& done, wire::incoming_message message) {
  call_answer answer{.id = {{done.request_id()}, done.attempt()},
                     .host = node_.name,
                     .incarnation = {done.incarnation()},
                     .outcome = error{},
                     .not_held = {done.not_held().begin(), done.not_held().end()}};
  const auto at = sent_.find(answer.id);
  if (at == sent_.end()) {
    // Of no call, or answered before: its memory may belong to another call by now. Only counted.
    answer.outcome = error{errc::invalid_request, "no such call"};
    return owner_.on_call_answer(std::move(answer));
  }
  const auto sent = at->second;
  sent_.erase(at);
  if (done.has_error()) {
    if (sent.range) connection_->shared->pool.give_back(*sent.range);
    answer.outcome = to_error(done.error());
  } else if (auto rows = read_output(done, sent, std::move(message)); rows) {
    traffic_.bytes_in += rows->bytes.size();
    answer.outcome = std::move(*rows);
  } else {
    owner_.on_bad_message(node_.name, rows.error());
    answer.outcome = rows.error();
  }
  owner_.on_call_answer(std::move(answer));
}

result<partial_rows> expert_link::read_output(const proto::ExpertsDone& done, const sent_call& sent,
                                              wire::incoming_message message) {
  // Gives the range back when the last user of the rows is done, wherever the link is by then.
  std::shared_ptr<const void> range_owner;
  if (sent.range) {
    range_owner = std::shared_ptr<const void>(
        nullptr, [owner = connection_->shared, range = *sent.range](const void*) { owner->pool.give_back(range); });
  }
  result<tensor_view> view = tensor_view{};
  partial_rows rows;
  if (done.output().has_shared()) {
    if (!sent.range || done.output().shared().offset() != sent.output_offset) {
      return fail(errc::corrupt, "output: it is not where this call asked for it");
    }
    view = wire::decode_shared_tensor(done.output(), connection_->shared->memory.bytes(), "output");
    rows.keep = range_owner;
  } else {
    auto kept = std::make_shared<wire::incoming_message>(std::move(message));
    view = kept->tensor(done.output(), "output");
    rows.keep = kept;
  }
  if (!view) return fail(view.error());
  if (view->type != sent.type || view->shape != std::vector<std::uint64_t>{sent.rows, sent.hidden}) {
    return fail(errc::invalid_request,
                fmt::format("output: shape or dtype differs from the {} rows that were sent", sent.rows));
  }
  rows.bytes = view->bytes;
  return rows;
}

}  // namespace troupe::router
