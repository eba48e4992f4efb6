#include "expert_node/shell/peer_links.hpp"

#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "expert_node/shell/handshake.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using std::chrono::steady_clock;

// How often a wait looks whether the node stops, or a connection stands.
constexpr std::chrono::milliseconds look_interval{20};

}  // namespace

peer_link::peer_link(const peer_fetch_settings& settings, std::string node, wire::socket opened)
    : settings_{settings},
      node_{std::move(node)},
      socket_{std::move(opened)},
      envelope_{std::make_unique<proto::PeerToPeer>()} {
  waiting_.add(socket_);
}

peer_link::~peer_link() = default;

result<std::unique_ptr<peer_link>> peer_link::open(const peer_fetch_settings& settings, const peer_source& source) {
  wire::socket_options options;
  options.client = settings.keys ? settings.keys(source) : std::nullopt;
  auto socket = wire::socket::open(settings.context, wire::socket_kind::dealer, options);
  if (!socket) return fail(socket.error());
  if (auto connected = socket->connect(source.address); !connected) return fail(connected.error());
  std::unique_ptr<peer_link> made{new peer_link{settings, source.node.value, std::move(*socket)}};
  if (auto greeted = made->greet(steady_clock::now() + limits::handshake_timeout); !greeted)
    return fail(greeted.error());
  return made;
}

result<void> peer_link::greet(time_point deadline) {
  proto::PeerToPeer hello;
  fill_hello(*settings_.identity, *hello.mutable_hello());
  // A socket refuses messages until its connection stands.
  while (!send(hello)) {
    if (settings_.cancelled()) return fail(errc::cancelled, "the node is stopping");
    if (steady_clock::now() > deadline) return fail(errc::unavailable, fmt::format("{} does not answer", node_));
    static_cast<void>(wire::wait_writable(socket_, look_interval));
  }
  if (auto got = receive(deadline); !got) return got;
  if (!envelope_->has_welcome()) return fail(errc::invalid_request, fmt::format("{} sent no Welcome", node_));
  return {};
}

result<void> peer_link::send(const proto::PeerToPeer& request) {
  return wire::outgoing_message{}.send(socket_, request);
}

result<void> peer_link::receive(time_point deadline) {
  while (true) {
    if (settings_.cancelled()) return fail(errc::cancelled, "the node is stopping");
    if (auto got = wire::receive(socket_)) {
      if (!got->message) return fail(got->message.error());
      if (auto parsed = got->message->parse(*envelope_); !parsed) return parsed;
      message_.emplace(std::move(*got->message));
      if (!envelope_->has_refused()) return {};
      return fail(static_cast<errc>(envelope_->refused().code()), envelope_->refused().message());
    }
    if (steady_clock::now() >= deadline) return fail(errc::timeout, fmt::format("{} does not answer", node_));
    waiting_.wait(look_interval);
  }
}

result<void> peer_link::ask(const proto::PeerToPeer& request, time_point deadline,
                            const std::function<bool(const proto::PeerToPeer&)>& is_answer) {
  if (auto asked = send(request); !asked) return asked;
  do {
    if (auto got = receive(deadline); !got) return got;
  } while (!is_answer(*envelope_));
  return {};
}

// -----------------------------------------------------------------------------------------------------------------

result<peer_link*> peer_links::to(const peer_source& source) {
  const auto key = key_of(source);
  if (auto kept = links_.find(key); kept != links_.end()) {
    // What is sent to a source that has just died is lost, and one that was started again knows nothing of us.
    if (kept->second->greet(steady_clock::now() + limits::peer_link_check)) return kept->second.get();
    links_.erase(kept);
  }
  auto opened = peer_link::open(settings_, source);
  if (!opened) return fail(opened.error());
  if (links_.size() >= limits::peer_links_max) links_.clear();
  return links_.emplace(key, *std::move(opened)).first->second.get();
}

result<std::shared_ptr<const wire::shared_segment>> peer_links::room(std::size_t bytes) {
  const bool is_free = room_ != nullptr && room_.use_count() == 1 && room_->bytes().size() >= bytes;
  if (!is_free) {
    auto made = wire::shared_segment::create(settings_.identity->cluster_id(), bytes);
    if (!made) return fail(made.error());
    room_ = std::make_shared<const wire::shared_segment>(*std::move(made));
  }
  return room_;
}

}  // namespace troupe::expert
