#include "common/wire/framing.hpp"

#include <fmt/format.h>
#include <google/protobuf/message_lite.h>
#include <google/protobuf/repeated_field.h>

#include <array>
#include <cassert>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/socket.hpp"
#include "proto/common.pb.h"

namespace troupe::wire {
namespace {

constexpr std::array<std::byte, 4> magic{std::byte{'T'}, std::byte{'R'}, std::byte{'P'}, std::byte{'E'}};
constexpr std::size_t part_alignment = alignof(std::uint64_t);

void store_u64(std::byte* target, std::uint64_t value) {
  for (int i = 0; i < 8; ++i) target[i] = static_cast<std::byte>(value >> (8 * i));
}

std::uint64_t load_u64(const std::byte* source) {
  std::uint64_t value = 0;
  for (int i = 0; i < 8; ++i) value |= std::to_integer<std::uint64_t>(source[i]) << (8 * i);
  return value;
}

bool is_wire_dtype(proto::DType type) {
  return type >= proto::F32 && type <= proto::U8 && proto::DType_IsValid(static_cast<int>(type));
}

std::string shape_text(const proto::Tensor& tensor) { return fmt::format("[{}]", fmt::join(tensor.shape(), ", ")); }

// dtype, rank and shape; returns the bytes that must follow.
result<std::uint64_t> check_header(const proto::Tensor& tensor, std::string_view field) {
  if (!is_wire_dtype(tensor.dtype())) {
    return fail(errc::invalid_request, fmt::format("{}: dtype {} is not supported; use F32, F16, BF16, I32 or U8",
                                                   field, static_cast<int>(tensor.dtype())));
  }
  const auto rank = static_cast<std::size_t>(tensor.shape_size());
  if (rank == 0 || rank > limits::tensor_rank_max) {
    return fail(errc::invalid_request,
                fmt::format("{}: {} dimensions; a tensor has 1 to {}", field, rank, limits::tensor_rank_max));
  }
  const auto type = static_cast<dtype>(tensor.dtype());
  const std::span<const std::uint64_t> shape(tensor.shape().data(), rank);
  auto bytes = checked_bytes(type, shape);
  if (!bytes) return fail(errc::invalid_request, fmt::format("{}: {}", field, bytes.error().message));
  if (*bytes == 0) {
    return fail(errc::invalid_request, fmt::format("{}: shape {} x {} bytes = 0; every dimension must be at least 1",
                                                   field, shape_text(tensor), bytes_per_element(type)));
  }
  return *bytes;
}

tensor_view view_of(const proto::Tensor& tensor, std::span<const std::byte> bytes) {
  return {static_cast<dtype>(tensor.dtype()), {tensor.shape().begin(), tensor.shape().end()}, bytes};
}

void describe(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape) {
  tensor.set_dtype(static_cast<proto::DType>(type));
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
}

// Does libzmq take another message, now that it has looked at what its I/O thread told it? A send looks only once in a
// while (3 million cycles), and until then takes a queue that has long been read for full.
bool takes_another(void* handle) {
  int events = 0;
  std::size_t size = sizeof events;
  return zmq_getsockopt(handle, ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLOUT) != 0;
}

// Whole message with no wait. libzmq accepts or refuses a message with its first part; when the peer vanishes between
// two parts the rest must be offered all the same, since libzmq counts on seeing the end before it starts anew.
int send_parts(void* handle, std::span<frame*> parts) {
  int failure = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const int more = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
    const auto send = [&] { return zmq_msg_send(parts[i]->handle(), handle, ZMQ_DONTWAIT | more) >= 0; };
    if (send()) continue;
    if (i == 0 && zmq_errno() == EAGAIN && takes_another(handle) && send()) continue;
    if (failure == 0) failure = zmq_errno();
    if (i == 0) break;
  }
  return failure;
}

}  // namespace

result<envelope_part> decode_envelope_part(std::span<const std::byte> part) {
  if (part.size() < preamble_bytes || std::memcmp(part.data(), magic.data(), magic.size()) != 0) {
    return fail(errc::invalid_request,
                fmt::format("a message of {} bytes does not start with Troupe's preamble; is this the right port?",
                            part.size()));
  }
  const auto major = std::to_integer<std::uint8_t>(part[4]);
  const auto minor = std::to_integer<std::uint8_t>(part[5]);
  if (major != limits::wire_version_major) {
    return fail(
        errc::wrong_version,
        fmt::format("peer speaks wire version {}.{}, this node {}.{}; upgrade order: coordinator, expert nodes, "
                    "routers, clients",
                    major, minor, limits::wire_version_major, limits::wire_version_minor));
  }
  const auto kind = parse_checksum_kind(std::to_integer<std::uint8_t>(part[6]));
  if (!kind) {
    return fail(errc::invalid_request, fmt::format("checksum kind {} is not supported; use 1 (XXH3-64) or 2 (CRC-32)",
                                                   std::to_integer<int>(part[6])));
  }
  if (part[7] != std::byte{0}) {
    return fail(errc::invalid_request,
                fmt::format("preamble byte 7 is {}; it must be 0 (all numbers and tensors are little-endian)",
                            std::to_integer<int>(part[7])));
  }
  const auto envelope = part.subspan(preamble_bytes);
  if (envelope.size() > limits::envelope_bytes_max) {
    return fail(errc::too_large, fmt::format("an envelope of {} bytes is above the limit of {}; send tensors as parts",
                                             envelope.size(), limits::envelope_bytes_max));
  }
  if (checksum(*kind, envelope) != load_u64(part.data() + 8)) {
    return fail(errc::corrupt,
                fmt::format("the checksum of an envelope of {} bytes does not match; send it again", envelope.size()));
  }
  return envelope_part{minor, *kind, envelope};
}

result<tensor_view> decode_tensor(const proto::Tensor& tensor, std::span<const std::span<const std::byte>> parts,
                                  checksum_kind kind, std::string_view field) {
  auto expected = check_header(tensor, field);
  if (!expected) return fail(std::move(expected.error()));
  if (tensor.place_case() != proto::Tensor::kPart) {
    return fail(errc::invalid_request,
                fmt::format("{}: {}; send the tensor as a part", field,
                            tensor.has_shared() ? "this link has no shared memory" : "no part is named"));
  }
  const std::size_t number = tensor.part();
  if (number == 0 || number > parts.size()) {
    return fail(errc::invalid_request,
                fmt::format("{}: names part {}, but {} tensor parts follow the envelope", field, number, parts.size()));
  }
  const auto bytes = parts[number - 1];
  if (bytes.size() != *expected) {
    return fail(errc::invalid_request,
                fmt::format("{}: shape {} x {} bytes = {}, but part {} has {} bytes", field, shape_text(tensor),
                            bytes_per_element(static_cast<dtype>(tensor.dtype())), *expected, number, bytes.size()));
  }
  if (bytes.size() > limits::tensor_bytes_max) {
    return fail(errc::too_large, fmt::format("{}: {} bytes are above the limit of {}; split the request", field,
                                             bytes.size(), limits::tensor_bytes_max));
  }
  if (checksum(kind, bytes) != tensor.checksum()) {
    return fail(errc::corrupt, fmt::format("{}: the checksum of part {} ({} bytes) does not match; send it again",
                                           field, number, bytes.size()));
  }
  return view_of(tensor, bytes);
}

result<tensor_view> decode_shared_tensor(const proto::Tensor& tensor, std::span<const std::byte> segment,
                                         std::string_view field) {
  auto expected = check_header(tensor, field);
  if (!expected) return fail(std::move(expected.error()));
  if (!tensor.has_shared()) return fail(errc::invalid_request, fmt::format("{}: no shared range is named", field));
  const auto offset = tensor.shared().offset();
  const auto bytes = tensor.shared().bytes();
  if (bytes != *expected) {
    return fail(errc::invalid_request,
                fmt::format("{}: shape {} x {} bytes = {}, but the range has {} bytes", field, shape_text(tensor),
                            bytes_per_element(static_cast<dtype>(tensor.dtype())), *expected, bytes));
  }
  if (offset > segment.size() || bytes > segment.size() - offset) {
    return fail(errc::invalid_request,
                fmt::format("{}: range {} + {} leaves the segment of {} bytes", field, offset, bytes, segment.size()));
  }
  if (offset % part_alignment != 0) {
    return fail(errc::invalid_request,
                fmt::format("{}: offset {} is not a multiple of {}", field, offset, part_alignment));
  }
  return view_of(tensor, segment.subspan(offset, bytes));
}

result<frame> encode_envelope_part(checksum_kind kind, const google::protobuf::MessageLite& envelope) {
  const std::size_t bytes = envelope.ByteSizeLong();
  if (bytes > limits::envelope_bytes_max) {
    return fail(errc::too_large, fmt::format("an envelope of {} bytes is above the limit of {}; send less at once",
                                             bytes, limits::envelope_bytes_max));
  }
  auto part = frame::of_size(preamble_bytes + bytes);
  auto* data = part.writable().data();
  std::memcpy(data, magic.data(), magic.size());
  data[4] = std::byte{limits::wire_version_major};
  data[5] = std::byte{limits::wire_version_minor};
  data[6] = static_cast<std::byte>(kind);
  data[7] = std::byte{0};
  envelope.SerializeWithCachedSizesToArray(reinterpret_cast<std::uint8_t*>(data + preamble_bytes));
  store_u64(data + 8, checksum(kind, part.bytes().subspan(preamble_bytes)));
  return part;
}

// -- sending ------------------------------------------------------------------------------------------------------

result<void> outgoing_message::attach(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                                      std::span<const std::byte> bytes) {
  auto part = frame::copy_of(bytes);
  return add(tensor, type, shape, bytes, std::move(part));
}

result<void> outgoing_message::attach(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                                      std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  return add(tensor, type, shape, bytes, frame::sharing(bytes, std::move(owner)));
}

result<void> outgoing_message::add(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                                   std::span<const std::byte> bytes, frame part) {
  if (parts_.size() + 1 >= limits::parts_per_message_max) {
    return fail(errc::too_large, fmt::format("a message has at most {} tensors; send the rest in another one",
                                             limits::parts_per_message_max - 1));
  }
  describe(tensor, type, shape);
  auto expected = check_header(tensor, "attached tensor");
  if (!expected) return fail(std::move(expected.error()));
  if (*expected != bytes.size()) {
    return fail(errc::invalid_request,
                fmt::format("attached tensor: shape {} x {} bytes = {}, but {} bytes are given", shape_text(tensor),
                            bytes_per_element(type), *expected, bytes.size()));
  }
  if (bytes.size() > limits::tensor_bytes_max) {
    return fail(errc::too_large, fmt::format("a tensor of {} bytes is above the limit of {}; split the request",
                                             bytes.size(), limits::tensor_bytes_max));
  }
  parts_.push_back(std::move(part));
  tensor.set_part(static_cast<std::uint32_t>(parts_.size()));
  tensor.set_checksum(checksum(kind_, bytes));
  tensor_bytes_ += bytes.size();
  return {};
}

result<void> outgoing_message::send(socket& to, const google::protobuf::MessageLite& envelope,
                                    std::string_view routing_id) {
  auto taken = std::exchange(parts_, {});
  auto head = encode_envelope_part(kind_, envelope);
  if (!head) return fail(std::move(head.error()));
  auto address = frame::copy_of(routing_id);
  std::vector<frame*> parts;
  parts.reserve(taken.size() + 2);
  if (to.kind() == socket_kind::router) parts.push_back(&address);
  parts.push_back(&*head);
  for (auto& part : taken) parts.push_back(&part);
  to.note_use();
  const int failure = send_parts(to.handle(), parts);
  if (failure == 0) return {};
  if (failure == EHOSTUNREACH) return fail(errc::unavailable, "the peer is no longer connected; wait for it");
  if (failure == EAGAIN && to.kind() == socket_kind::router) {
    return fail(errc::overloaded, "the peer does not read its messages; send again later");
  }
  if (failure == EAGAIN) return fail(errc::unavailable, "the peer is not connected or does not read; try another one");
  return fail(errc::internal, fmt::format("zmq_msg_send failed: {}", zmq_strerror(failure)));
}

void describe_shared(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape, std::uint64_t offset,
                     std::uint64_t bytes) {
  describe(tensor, type, shape);
  tensor.clear_checksum();
  tensor.mutable_shared()->set_offset(offset);
  tensor.mutable_shared()->set_bytes(bytes);
}

void share_part(const proto::Tensor& attached, proto::Tensor& other) { other = attached; }

// -- receiving ----------------------------------------------------------------------------------------------------

result<incoming_message> incoming_message::from_parts(std::vector<frame> parts) {
  assert(!parts.empty() && parts.size() <= limits::parts_per_message_max);
  auto head = decode_envelope_part(parts.front().bytes());
  if (!head) return fail(std::move(head.error()));
  incoming_message message;
  message.kind_ = head->kind;
  message.minor_ = head->minor;
  message.envelope_ = head->envelope;
  // The handles move with the vector's storage, not one by one: spans stay valid.
  message.frames_ = std::move(parts);
  for (std::size_t i = 1; i < message.frames_.size(); ++i) {
    auto bytes = std::as_const(message.frames_[i]).bytes();
    // Small parts lie in libzmq's read buffer at any address; those above its 8 KiB have memory of their own.
    if (reinterpret_cast<std::uintptr_t>(bytes.data()) % part_alignment != 0) {
      auto& copy = message.realigned_.emplace_back((bytes.size() + part_alignment - 1) / part_alignment);
      std::memcpy(copy.data(), bytes.data(), bytes.size());
      bytes = std::as_bytes(std::span(copy)).first(bytes.size());
    }
    message.tensors_.push_back(bytes);
  }
  return message;
}

std::uint64_t incoming_message::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& part : frames_) sum += part.size();
  return sum;
}

result<void> incoming_message::parse(google::protobuf::Message& target) const {
  return parse_envelope(envelope_, target);
}

result<tensor_view> incoming_message::tensor(const proto::Tensor& tensor, std::string_view field) const {
  return decode_tensor(tensor, tensors_, kind_, field);
}

namespace {

// The kind that a first part names, however broken the rest of it may be.
checksum_kind kind_to_answer_in(std::span<const std::byte> part) {
  constexpr std::size_t kind_at = 6;
  const bool ours = part.size() >= preamble_bytes && std::memcmp(part.data(), "TRPE", 4) == 0;
  const bool xxh3 = ours && part[kind_at] == static_cast<std::byte>(checksum_kind::xxh3);
  return xxh3 ? checksum_kind::xxh3 : checksum_kind::crc32;
}

}  // namespace

std::optional<received> receive(socket& from) {
  const std::size_t head_parts = from.kind() == socket_kind::router ? 1 : 0;
  frame part;
  from.note_use();
  if (zmq_msg_recv(part.handle(), from.handle(), ZMQ_DONTWAIT) < 0) {
    from.note_empty();
    return std::nullopt;
  }
  std::vector<frame> parts;
  parts.reserve(limits::parts_per_message_max);
  received got{{}, {}, {}, checksum_kind::crc32, fail(errc::internal, "nothing received")};
  std::size_t count = 0;
  for (bool more = true; more; ++count) {
    // Parts of one message arrive together, so only the first can be missing.
    if (count > 0 && zmq_msg_recv(part.handle(), from.handle(), ZMQ_DONTWAIT) < 0) return std::nullopt;
    more = zmq_msg_more(part.handle()) != 0;
    if (count == head_parts) {
      got.user_id = part.metadata("User-Id");
      got.peer_address = part.metadata("Peer-Address");
    }
    if (count < head_parts) {
      const auto id = std::as_const(part).bytes();
      got.routing_id.assign(reinterpret_cast<const char*>(id.data()), id.size());
    } else if (parts.size() < limits::parts_per_message_max) {
      parts.push_back(std::move(part));
    }
  }
  if (!parts.empty()) got.answer_in = kind_to_answer_in(std::as_const(parts.front()).bytes());
  if (count - head_parts > limits::parts_per_message_max) {
    got.message = fail(errc::too_large, fmt::format("a message of {} parts is above the limit of {}",
                                                    count - head_parts, limits::parts_per_message_max));
  } else if (parts.empty()) {
    got.message = fail(errc::invalid_request, "a message without an envelope");
  } else {
    got.message = incoming_message::from_parts(std::move(parts));
  }
  return got;
}

}  // namespace troupe::wire
