#include "expert_node/shell/peer_fetch.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/wire/framing.hpp"
#include "common/wire/shared_memory.hpp"
#include "expert_node/shell/layout_wire.hpp"
#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using std::chrono::steady_clock;

error error_of(const proto::Error& reason) { return {static_cast<errc>(reason.code()), reason.message()}; }

}  // namespace

peer_fetch::peer_fetch(peer_links& links, slot_content content, std::shared_ptr<const model::bundle_layout> known)
    : links_{links}, content_{content}, layout_{std::move(known)} {}

result<void> peer_fetch::from(const peer_source& source) {
  auto link = links_.to(source);
  if (!link) return fail(link.error());
  if (window_) window_->restart();
  fetch_id_ = links_.next_fetch_id();
  auto done = fetch_over(**link);
  if (!done) links_.close(source);
  return done;
}

result<void> peer_fetch::fetch_over(peer_link& to) {
  if (!window_) {
    auto shared = fetch_shared(to);
    if (shared || shared.error().code == errc::cancelled) return shared;
    spdlog::debug("expert {} comes in chunks from {}: {}", to_string(content_.expert), to.node(),
                  shared.error().message);
    // With the size at hand several chunks are on their way from the start.
    auto begun = layout_ == nullptr ? learn(to) : make_room();
    if (!begun) return begun;
  }
  return fetch_missing(to);
}

result<void> peer_fetch::fetch_shared(peer_link& to) {
  if (!links_.settings().is_sharing || layout_ == nullptr) return fail(errc::unavailable, "nothing is shared");
  const auto bytes = layout_->bytes();
  auto segment = links_.room(bytes);
  if (!segment) return fail(segment.error());
  auto done = ask_to_share(to, **segment);
  if (!done) {
    links_.forget_room();
    return done;
  }
  bundle_ = bundle_buffer::of(*std::move(segment), bytes);
  return {};
}

result<void> peer_fetch::ask_to_share(peer_link& to, const wire::shared_segment& segment) {
  const auto deadline = steady_clock::now() + limits::peer_chunk_timeout;
  proto::PeerToPeer request;
  auto& share = *request.mutable_share();
  share.set_fetch_id(fetch_id_);
  share.set_layer(content_.expert.layer.value);
  share.set_expert(content_.expert.index);
  share.set_version(content_.version.value);
  share.mutable_segment()->set_name(segment.name());
  share.mutable_segment()->set_bytes(layout_->bytes());
  share.mutable_segment()->set_machine_id(wire::machine_id());
  const auto is_answer = [this](const proto::PeerToPeer& m) {
    return m.has_shared() && m.shared().fetch_id() == fetch_id_;
  };
  if (auto answered = to.ask(request, deadline, is_answer); !answered) return answered;
  if (to.envelope().shared().has_error()) return fail(error_of(to.envelope().shared().error()));
  return {};
}

result<void> peer_fetch::make_room() {
  auto bundle = bundle_buffer::make(layout_->bytes());
  if (!bundle) return fail(bundle.error());
  bundle_ = std::move(*bundle);
  window_.emplace(layout_->bytes(), links_.settings().chunks);
  return {};
}

void peer_fetch::discard() {
  if (window_) window_->discard();
}

bool peer_fetch::has_some() const { return window_ && window_->arrived() > 0; }

result<void> peer_fetch::learn(peer_link& to) {
  const auto deadline = steady_clock::now() + limits::peer_chunk_timeout;
  const auto is_answer = [this](const proto::PeerToPeer& m) {
    return m.has_chunk() && m.chunk().fetch_id() == fetch_id_;
  };
  const auto request = request_for({0, links_.settings().chunks.chunk_bytes});
  if (auto answered = to.ask(request, deadline, is_answer); !answered) return answered;
  const auto& chunk = to.envelope().chunk();
  if (chunk.has_error()) return fail(error_of(chunk.error()));
  auto layout = from_proto(content_.expert, chunk.layout());
  if (!layout) return fail(layout.error());
  layout_ = std::make_shared<model::bundle_layout>(std::move(*layout));
  if (auto made = make_room(); !made) return made;
  static_cast<void>(window_->next(steady_clock::now()));
  return take_chunk(to);
}

result<void> peer_fetch::fetch_missing(peer_link& to) {
  std::uint32_t timeouts = 0;
  while (!window_->complete()) {
    const auto now = steady_clock::now();
    if (window_->expire(now) > 0 && ++timeouts >= limits::peer_timeouts_max) {
      return fail(errc::timeout, fmt::format("{} stopped sending with {} chunks to go", to.node(), window_->missing()));
    }
    while (auto range = window_->next(now)) {
      if (auto asked = to.send(request_for(*range)); !asked) return asked;
    }
    auto got = to.receive(*window_->deadline());
    if (!got && got.error().code == errc::timeout) continue;
    if (!got) return got;
    if (auto taken = take_chunk(to); !taken) return taken;
  }
  return {};
}

proto::PeerToPeer peer_fetch::request_for(const chunk_range& range) const {
  proto::PeerToPeer request;
  auto& fetch = *request.mutable_fetch();
  fetch.set_fetch_id(fetch_id_);
  fetch.set_layer(content_.expert.layer.value);
  fetch.set_expert(content_.expert.index);
  fetch.set_version(content_.version.value);
  fetch.set_offset(range.offset);
  fetch.set_bytes(range.bytes);
  return request;
}

result<void> peer_fetch::take_chunk(peer_link& to) {
  if (!to.envelope().has_chunk() || to.envelope().chunk().fetch_id() != fetch_id_) return {};  // late, of an older try
  const auto& chunk = to.envelope().chunk();
  if (chunk.has_error()) return fail(error_of(chunk.error()));
  if (chunk.bundle_bytes() != bundle_.bytes().size()) {
    return fail(errc::corrupt, fmt::format("{} has {} bytes for expert {}, this node expects {}", to.node(),
                                           chunk.bundle_bytes(), to_string(content_.expert), bundle_.bytes().size()));
  }
  auto data = to.message().tensor(chunk.data(), "chunk.data");
  if (!data) return fail(data.error());
  if (data->type != dtype::u8) return fail(errc::invalid_request, "chunk.data: expected U8");
  if (window_->received({chunk.offset(), data->bytes.size()})) {
    std::memcpy(bundle_.bytes().data() + chunk.offset(), data->bytes.data(), data->bytes.size());
  }
  return {};
}

}  // namespace troupe::expert
