#include "client/cpp/link.hpp"

#include <fmt/format.h>
#include <zmq.h>

#include <utility>

namespace troupe::client {
namespace {

using steady = std::chrono::steady_clock;

// Small messages of a stream that its reader has not taken yet; a router ends streams that fall behind further.
constexpr int messages_unread_max = 16'384;

// One link is one connection: no reconnecting, and what is queued goes away with it.
result<void> make_single_use(wire::socket& socket) {
  const std::pair<int, int> settings[] = {
      {ZMQ_RECONNECT_IVL, -1}, {ZMQ_IMMEDIATE, 0}, {ZMQ_LINGER, 0}, {ZMQ_RCVHWM, messages_unread_max}};
  for (const auto& [option, value] : settings) {
    auto set = wire::zmq_check(zmq_setsockopt(socket.handle(), option, &value, sizeof value), "zmq_setsockopt");
    if (!set) return set;
  }
  return {};
}

std::optional<link_lost> loss_of(const wire::link_event& event, const std::string& address) {
  switch (event.kind) {
    case wire::link_event_kind::connected:
    case wire::link_event_kind::ready:
      return std::nullopt;
    case wire::link_event_kind::disconnected:
      return link_lost{fmt::format("the connection to {} was lost", address)};
    case wire::link_event_kind::connect_failed:
      return link_lost{fmt::format("nobody answers at {}", address)};
    case wire::link_event_kind::refused:
      return link_lost{fmt::format("{} does not accept this key; 'troupe keys list' shows which it does", address),
                       true};
    case wire::link_event_kind::handshake_failed:
      return link_lost{fmt::format("{} broke off the handshake; is its public key the right one?", address)};
  }
  return std::nullopt;
}

}  // namespace

router_link::router_link(std::string address, wire::socket socket, wire::link_monitor monitor)
    : address_(std::move(address)), socket_(std::move(socket)), monitor_(std::move(monitor)) {
  poller_.add(socket_);
  poller_.add(monitor_.events());
}

result<std::unique_ptr<router_link>> router_link::open(std::shared_ptr<wire::context> ctx,
                                                       const router_address& router) {
  wire::socket_options options;
  options.client = router.keys;
  auto socket = wire::socket::open(std::move(ctx), wire::socket_kind::dealer, options);
  if (!socket) return fail(std::move(socket.error()));
  if (auto set = make_single_use(*socket); !set) return fail(std::move(set.error()));
  auto monitor = wire::link_monitor::watch(*socket);
  if (!monitor) return fail(std::move(monitor.error()));
  if (auto connected = socket->connect(router.address); !connected) return fail(std::move(connected.error()));
  return std::unique_ptr<router_link>(new router_link(router.address, std::move(*socket), std::move(*monitor)));
}

result<void> router_link::send(wire::outgoing_message& message, const google::protobuf::MessageLite& envelope) {
  return message.send(socket_, envelope);
}

link_news router_link::next(steady::time_point deadline) {
  while (true) {
    if (auto got = wire::receive(socket_)) {
      if (got->message) return std::move(*got->message);
      return link_lost{fmt::format("{} sent a damaged message: {}", address_, got->message.error().message)};
    }
    while (auto event = monitor_.next()) {
      auto lost = loss_of(*event, address_);
      if (!lost) continue;
      // An answer may have come between the first look and the event.
      if (auto got = wire::receive(socket_); got && got->message) return std::move(*got->message);
      return std::move(*lost);
    }
    const auto now = steady::now();
    if (now >= deadline) return link_silent{};
    poller_.wait(deadline - now);
  }
}

}  // namespace troupe::client
