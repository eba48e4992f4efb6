#include "expert_node/shell/gpu_transfer.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "compute/packing.hpp"
#include "expert_node/shell/layout_wire.hpp"
#include "proto/peer.pb.h"

namespace troupe::expert {
namespace {

using compute::gpu_link;
using compute::gpu_move;
using std::chrono::steady_clock;

constexpr std::uint32_t taker_rank = 0;
constexpr std::uint32_t giver_rank = 1;

result<void> move_over(std::unique_ptr<compute::gpu_link_backend> end, std::span<const std::byte> key,
                       std::uint32_t rank, const gpu_move& move, compute::gpu_link_clock clock) {
  auto link = gpu_link::connect(std::move(end), key, rank, 2, std::move(clock));
  if (!link) return fail(link.error());
  if (auto moved = link->exchange({&move, 1}); !moved) return moved;
  return link->close();
}

// The giver's answer: its layout.
result<std::shared_ptr<const model::bundle_layout>> ask(peer_links& links, const peer_source& source,
                                                        const slot_content& content, dtype type,
                                                        std::span<const std::byte> key) {
  auto to = links.to(source);
  if (!to) return fail(to.error());
  const auto deadline = steady_clock::now() + limits::peer_chunk_timeout;
  proto::PeerToPeer request;
  auto& link = *request.mutable_link();
  const auto id = links.next_fetch_id();
  link.set_fetch_id(id);
  link.set_layer(content.expert.layer.value);
  link.set_expert(content.expert.index);
  link.set_version(content.version.value);
  link.set_dtype(static_cast<proto::DType>(type));
  link.set_key(key.data(), key.size());
  const auto is_answer = [id](const proto::PeerToPeer& m) { return m.has_linked() && m.linked().fetch_id() == id; };
  if (auto answered = (*to)->ask(request, deadline, is_answer); !answered) return fail(answered.error());
  const auto& answer = (*to)->envelope().linked();
  if (answer.has_error()) return fail(static_cast<errc>(answer.error().code()), answer.error().message());
  auto layout = from_proto(content.expert, answer.layout());
  if (!layout) return fail(layout.error());
  return std::make_shared<model::bundle_layout>(std::move(*layout));
}

}  // namespace

// -- giving -------------------------------------------------------------------------------------------------------

gpu_giver::~gpu_giver() {
  stopping_ = true;
  std::lock_guard lock{mutex_};
  if (thread_.joinable()) thread_.join();
}

result<std::unique_ptr<compute::gpu_link_backend>> gpu_giver::open_end(const link_request& asked,
                                                                       const model::bundle_layout& layout) {
  // The taker must get the checkpoint's bytes back out of its slot.
  const auto is_exact = [&](const auto& tensor) { return compute::is_exact(tensor.type, type_); };
  if (asked.type != type_ || !std::ranges::all_of(layout.tensors, is_exact)) {
    return fail(errc::invalid_request,
                fmt::format("slots here hold {}, and only what was not rounded is given", to_string(type_)));
  }
  if (busy_) return fail(errc::overloaded, "another expert is on its way over a link of GPUs");
  return open_();
}

result<void> gpu_giver::give(const link_request& asked, slot_index slot,
                             std::shared_ptr<const model::bundle_layout> layout, std::function<void()> done) {
  std::lock_guard lock{mutex_};
  auto end = open_end(asked, *layout);
  if (!end) {
    done();
    return fail(end.error());
  }
  if (thread_.joinable()) thread_.join();
  busy_ = true;
  thread_ = std::thread{[this, slot, layout = std::move(layout), key = asked.key, done = std::move(done),
                         end = std::move(*end)]() mutable {
    auto sent = memory_->lend(slot, layout->shape, [&](std::span<std::byte> packed) {
      return move_over(std::move(end), key, giver_rank,
                       {gpu_move::direction::send, packed.data(), packed.size(), taker_rank},
                       compute::steady_link_clock([this] { return stopping_.load(); }));
    });
    if (!sent) {
      spdlog::warn("expert {} was not given over a link of GPUs: {}", to_string(layout->id), sent.error().message);
    }
    done();
    busy_ = false;
  }};
  return {};
}

// -- taking -------------------------------------------------------------------------------------------------------

result<std::shared_ptr<const model::bundle_layout>> fetch_over_gpus(const link_opener& open, device_memory& memory,
                                                                    dtype type, peer_links& links,
                                                                    const peer_source& source,
                                                                    const slot_content& content, slot_index slot) {
  auto end = open();
  if (!end) return fail(end.error());
  auto key = (*end)->make_key();
  if (!key) return fail(key.error());
  auto layout = ask(links, source, content, type, *key);
  if (!layout) {
    links.close(source);  // an answer that comes late is nobody's
    return layout;
  }
  auto received = memory.lend(slot, (*layout)->shape, [&](std::span<std::byte> packed) {
    return move_over(std::move(*end), *key, taker_rank,
                     {gpu_move::direction::receive, packed.data(), packed.size(), giver_rank},
                     compute::steady_link_clock(links.settings().cancelled));
  });
  if (!received) return fail(received.error());
  if (auto adopted = memory.adopt(slot, **layout); !adopted) return fail(adopted.error());
  return layout;
}

}  // namespace troupe::expert
