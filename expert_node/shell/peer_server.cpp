#include "expert_node/shell/peer_server.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/daemon/process.hpp"
#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/server_socket.hpp"
#include "common/wire/shared_memory.hpp"
#include "expert_node/shell/handshake.hpp"
#include "expert_node/shell/layout_wire.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using std::chrono::steady_clock;

void set_error(const error& reason, proto::Error& target) {
  target.set_code(static_cast<proto::ErrorCode>(reason.code));
  target.set_message(reason.message);
}

}  // namespace

class peer_server::impl {
 public:
  impl(peer_server_settings settings, wire::server_socket bound)
      : address{std::move(bound.address)},
        settings_{std::move(settings)},
        socket_{std::move(bound.requests)},
        wake_{std::move(bound.wake)},
        thread_{[this] { run(); }} {}
  ~impl() { stop(); }

  void stop() {
    stopping_ = true;
    wake_.wake();
    if (thread_.joinable()) thread_.join();
  }

  const std::string address;
  peer_server_counters counters;

 private:
  struct cached {
    std::shared_ptr<const open_bundle> bundle;  // shared with libzmq until it has sent the last chunk
    time_point used;
    std::uint64_t bytes_sent{};
  };

  struct taker_memory {
    std::shared_ptr<const wire::shared_segment> segment;
    time_point used;
  };

  void run();
  void handle(wire::received& got);
  void on_hello(const wire::received& got, const proto::Hello& hello);
  [[nodiscard]] result<void> on_fetch(const wire::received& got, const proto::FetchChunk& fetch);
  void on_share(const wire::received& got, const proto::ShareBundle& asked);
  [[nodiscard]] result<void> share(const proto::ShareBundle& asked);
  void on_link(const wire::received& got, const proto::LinkBundle& asked);
  // The taker's memory: mapped already for the bundle before, or now.
  [[nodiscard]] result<std::shared_ptr<const wire::shared_segment>> mapped(const std::string& name,
                                                                           std::uint64_t bytes);
  [[nodiscard]] result<cached*> find(const slot_content& content);
  void drop_idle();
  void send(const wire::received& got, const proto::PeerToPeer& envelope,
            wire::outgoing_message answer = wire::outgoing_message{});

  peer_server_settings settings_;
  wire::socket socket_;
  wire::wake_signal wake_;
  std::set<std::string> greeted_;  // routing ids
  std::map<slot_content, cached> cache_;
  std::map<std::string, taker_memory> mapped_;  // by name
  std::atomic<bool> stopping_{};
  std::thread thread_;  // last: it uses everything above
};

void peer_server::impl::run() {
  daemon::take_duty(daemon::thread_duty::background);
  wire::poller waiting;
  waiting.add(socket_);
  waiting.add(wake_);
  while (!stopping_) {
    waiting.wait(limits::peer_bundle_idle / 2);
    wake_.clear();
    while (!stopping_) {
      auto got = wire::receive(socket_);
      if (!got) break;
      handle(*got);
    }
    drop_idle();
  }
}

void peer_server::impl::handle(wire::received& got) {
  result<void> outcome;
  proto::PeerToPeer envelope;
  if (!got.message) {
    outcome = fail(got.message.error());
  } else if (outcome = got.message->parse(envelope); outcome) {
    if (envelope.has_hello()) return on_hello(got, envelope.hello());
    if (!greeted_.contains(got.routing_id)) {
      outcome = fail(errc::handshake_required, "say hello before the first request of a connection");
    } else if (envelope.has_share()) {
      return on_share(got, envelope.share());
    } else if (envelope.has_link()) {
      return on_link(got, envelope.link());
    } else if (!envelope.has_fetch()) {
      outcome = fail(errc::invalid_request, "expected a FetchChunk, ShareBundle or LinkBundle");
    } else {
      outcome = on_fetch(got, envelope.fetch());
      if (!outcome) {
        proto::PeerToPeer answer;
        answer.mutable_chunk()->set_fetch_id(envelope.fetch().fetch_id());
        answer.mutable_chunk()->set_offset(envelope.fetch().offset());
        set_error(outcome.error(), *answer.mutable_chunk()->mutable_error());
        return send(got, answer);
      }
    }
  }
  if (outcome) return;
  counters.messages_rejected.add();
  proto::PeerToPeer answer;
  set_error(outcome.error(), *answer.mutable_refused());
  send(got, answer);
}

void peer_server::impl::on_hello(const wire::received& got, const proto::Hello& hello) {
  proto::PeerToPeer answer;
  if (auto fine = check_hello(hello, *settings_.identity, got.user_id); !fine) {
    spdlog::warn("peer refused: {}", fine.error().message);
    counters.messages_rejected.add();
    set_error(fine.error(), *answer.mutable_refused());
    return send(got, answer);
  }
  // The oldest names are of connections long gone.
  if (greeted_.size() >= limits::nodes_max) greeted_.clear();
  greeted_.insert(got.routing_id);
  fill_welcome(*settings_.identity, *answer.mutable_welcome());
  send(got, answer);
}

result<void> peer_server::impl::on_fetch(const wire::received& got, const proto::FetchChunk& fetch) {
  const slot_content content{{{fetch.layer()}, fetch.expert()}, {fetch.version()}};
  auto found = find(content);
  if (!found) return fail(found.error());
  auto& entry = **found;
  const auto bytes = entry.bundle->bytes.bytes();
  if (fetch.offset() >= bytes.size() || fetch.bytes() == 0 || fetch.bytes() > limits::tensor_bytes_max) {
    return fail(errc::invalid_request, fmt::format("chunk {} + {} does not lie in the bundle of {} bytes",
                                                   fetch.offset(), fetch.bytes(), bytes.size()));
  }
  const auto part =
      bytes.subspan(fetch.offset(), std::min<std::uint64_t>(fetch.bytes(), bytes.size() - fetch.offset()));
  proto::PeerToPeer answer;
  auto& chunk = *answer.mutable_chunk();
  chunk.set_fetch_id(fetch.fetch_id());
  chunk.set_offset(fetch.offset());
  chunk.set_bundle_bytes(bytes.size());
  if (fetch.offset() == 0) to_proto(*entry.bundle->layout, *chunk.mutable_layout());
  wire::outgoing_message message{got.message->kind()};
  const std::array<std::uint64_t, 1> shape{part.size()};
  if (auto attached = message.attach(*chunk.mutable_data(), dtype::u8, shape, part, entry.bundle); !attached)
    return attached;
  send(got, answer, std::move(message));
  entry.used = steady_clock::now();
  entry.bytes_sent += part.size();
  counters.bytes_sent.add(static_cast<double>(part.size()));
  if (entry.bytes_sent >= bytes.size()) cache_.erase(content);
  return {};
}

void peer_server::impl::on_share(const wire::received& got, const proto::ShareBundle& asked) {
  proto::PeerToPeer answer;
  answer.mutable_shared()->set_fetch_id(asked.fetch_id());
  if (auto shared = share(asked); !shared) set_error(shared.error(), *answer.mutable_shared()->mutable_error());
  send(got, answer);
}

result<void> peer_server::impl::share(const proto::ShareBundle& asked) {
  const auto& offer = asked.segment();
  if (offer.machine_id() != wire::machine_id())
    return fail(errc::unavailable, "this is another machine; ask for chunks");
  const auto map_segment = [&](std::size_t bytes) -> result<bundle_buffer> {
    if (bytes != offer.bytes())
      return fail(errc::invalid_request, fmt::format("the bundle has {} bytes, not {}", bytes, offer.bytes()));
    auto segment = mapped(offer.name(), offer.bytes());
    if (!segment) return fail(segment.error());
    return bundle_buffer::of(*std::move(segment), bytes);
  };
  auto opened = settings_.open({{{asked.layer()}, asked.expert()}, {asked.version()}}, map_segment);
  if (!opened) return fail(opened.error());
  counters.bundles_opened.add();
  counters.bytes_sent.add(static_cast<double>(opened->bytes.bytes().size()));
  return {};
}

void peer_server::impl::on_link(const wire::received& got, const proto::LinkBundle& asked) {
  proto::PeerToPeer answer;
  auto& linked = *answer.mutable_linked();
  linked.set_fetch_id(asked.fetch_id());
  const auto* key = reinterpret_cast<const std::byte*>(asked.key().data());
  const link_request request{{{{asked.layer()}, asked.expert()}, {asked.version()}},
                             static_cast<dtype>(asked.dtype()),
                             {key, key + asked.key().size()}};
  auto layout = settings_.link ? settings_.link(request)
                               : result<std::shared_ptr<const model::bundle_layout>>{
                                     fail(errc::unavailable, "that node does not link GPUs (--link-gpus)")};
  if (layout) {
    to_proto(**layout, *linked.mutable_layout());
  } else {
    set_error(layout.error(), *linked.mutable_error());
  }
  send(got, answer);
}

result<std::shared_ptr<const wire::shared_segment>> peer_server::impl::mapped(const std::string& name,
                                                                              std::uint64_t bytes) {
  auto entry = mapped_.find(name);
  // A bundle of another size may come into the same memory: the taker's has room, our view of it may not.
  if (entry == mapped_.end() || entry->second.segment->bytes().size() < bytes) {
    auto opened = wire::shared_segment::open(name, bytes);
    if (!opened) return fail(opened.error());
    if (mapped_.size() >= limits::peer_links_max) mapped_.clear();
    auto segment = std::make_shared<const wire::shared_segment>(*std::move(opened));
    entry = mapped_.insert_or_assign(name, taker_memory{std::move(segment), {}}).first;
  }
  entry->second.used = steady_clock::now();
  return entry->second.segment;
}

result<peer_server::impl::cached*> peer_server::impl::find(const slot_content& content) {
  if (auto found = cache_.find(content); found != cache_.end()) return &found->second;
  drop_idle();
  if (cache_.size() >= limits::peer_bundles_open_max) {
    return fail(errc::overloaded,
                fmt::format("{} bundles are being sent already; ask another node or come back", cache_.size()));
  }
  auto opened = settings_.open(content, bundle_buffer::make);
  if (!opened) return fail(opened.error());
  counters.bundles_opened.add();
  auto shared = std::make_shared<const open_bundle>(std::move(*opened));
  auto [entry, added] = cache_.emplace(content, cached{std::move(shared), steady_clock::now()});
  return &entry->second;
}

void peer_server::impl::drop_idle() {
  const auto now = steady_clock::now();
  const auto is_idle = [&](const auto& entry) { return now - entry.second.used > limits::peer_bundle_idle; };
  std::erase_if(cache_, is_idle);
  std::erase_if(mapped_, is_idle);
}

// A peer that has gone, or does not read, asks again.
void peer_server::impl::send(const wire::received& got, const proto::PeerToPeer& envelope,
                             wire::outgoing_message answer) {
  auto sent = answer.send(socket_, envelope, got.routing_id);
  if (!sent && sent.error().code == errc::unavailable) greeted_.erase(got.routing_id);
}

// -----------------------------------------------------------------------------------------------------------------

result<std::unique_ptr<peer_server>> peer_server::start(peer_server_settings settings) {
  auto bound = wire::server_socket::bind(settings.context, settings.socket, settings.address);
  if (!bound) return fail(std::move(bound.error()));
  return std::unique_ptr<peer_server>{new peer_server{std::make_unique<impl>(std::move(settings), std::move(*bound))}};
}

peer_server::peer_server(std::unique_ptr<impl> i) : impl_{std::move(i)} {}
peer_server::~peer_server() = default;
const std::string& peer_server::address() const { return impl_->address; }
const peer_server_counters& peer_server::counters() const { return impl_->counters; }
void peer_server::stop() { impl_->stop(); }

}  // namespace troupe::expert
