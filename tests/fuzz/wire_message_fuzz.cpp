// Whole messages as a peer may send them. Input: a byte, then for each part a 3-byte little-endian length and its
// bytes. When the first byte is odd the checksums are put right, which a fuzzer cannot do. What is accepted must be
// consistent: every view has the bytes that its shape says, and is aligned.
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "proto/client_router.pb.h"
#include "proto/common.pb.h"
#include "proto/peer.pb.h"
#include "proto/router_expert.pb.h"

namespace {

using namespace troupe;

void require(bool condition) {
  if (!condition) std::abort();
}

std::vector<wire::frame> cut(std::span<const std::byte> input) {
  std::vector<wire::frame> parts;
  while (input.size() >= 3 && parts.size() < limits::parts_per_message_max) {
    std::size_t length = 0;
    for (int i = 0; i < 3; ++i) length |= std::to_integer<std::size_t>(input[i]) << (8 * i);
    input = input.subspan(3);
    length = std::min(length, input.size());
    parts.push_back(wire::frame::copy_of(input.first(length)));
    input = input.subspan(length);
  }
  return parts;
}

// Preamble and checksum of an honest sender around the envelope that the fuzzer chose.
void repair(wire::frame& part) {
  const auto bytes = part.writable();
  if (bytes.size() < wire::preamble_bytes) return;
  const std::uint64_t sum = wire::checksum(wire::checksum_kind::xxh3, bytes.subspan(wire::preamble_bytes));
  const std::array<std::uint8_t, 8> head{'T', 'R', 'P', 'E', limits::wire_version_major, 0, 1, 0};
  std::memcpy(bytes.data(), head.data(), head.size());
  for (int i = 0; i < 8; ++i) bytes[8 + i] = static_cast<std::byte>(sum >> (8 * i));
}

void check(const result<tensor_view>& view) {
  if (!view) {
    require(!view.error().message.empty());
    return;
  }
  require(!view->bytes.empty() && view->shape.size() <= limits::tensor_rank_max);
  require(checked_bytes(view->type, view->shape).value() == view->bytes.size());
}

void look_at(const wire::incoming_message& message, proto::Tensor tensor, std::span<const std::byte> shared) {
  const auto view = message.tensor(tensor, "tensor");
  check(view);
  if (view) require(reinterpret_cast<std::uintptr_t>(view->bytes.data()) % bytes_per_element(view->type) == 0);
  const std::span<const std::byte> part = shared;
  check(wire::decode_shared_tensor(tensor, shared, "tensor"));
  tensor.set_checksum(wire::checksum(message.kind(), part));
  check(wire::decode_tensor(tensor, std::span(&part, 1), message.kind(), "tensor"));
}

template <class Message>
void try_as(const wire::incoming_message& incoming) {
  Message message;
  const auto parsed = incoming.parse(message);
  require(parsed || !parsed.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (input.empty()) return 0;
  auto parts = cut(input.subspan(1));
  if (parts.empty()) return 0;
  if ((data[0] & 1) != 0) repair(parts.front());
  const auto message = wire::incoming_message::from_parts(std::move(parts));
  if (!message) {
    require(!message.error().message.empty());
    return 0;
  }
  proto::RouterToExpert run;
  if (message->parse(run) && run.has_run()) {
    look_at(*message, run.run().hidden(), input);
    look_at(*message, run.run().row_index(), input);
  }
  proto::RouterToClient reply;
  if (message->parse(reply) && reply.has_layer()) look_at(*message, reply.layer().output(), input);
  try_as<proto::ClientToRouter>(*message);
  try_as<proto::ExpertToRouter>(*message);
  try_as<proto::PeerToPeer>(*message);
  return 0;
}
