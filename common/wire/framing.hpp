// What a message is: a preamble with the Protobuf envelope behind it, then tensor parts (docs/wire-framing.md).
//
//   sending    outgoing_message message;
//              message.attach(*run.mutable_hidden(), dtype::bf16, shape, bytes, owner);
//              message.send(socket, envelope);
//   receiving  if (auto got = receive(socket)) { if (got->message) { got->message->parse(envelope); ... } }
//
// Nothing from the other side is trusted: part count, version, sizes and checksums are checked before anything is
// parsed, and every shape is checked against its bytes before it is handed out. No function here waits.
// A message belongs to one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "common/wire/checksum.hpp"
#include "common/wire/frame.hpp"

namespace google::protobuf {
class Message;
class MessageLite;
}  // namespace google::protobuf

namespace troupe::proto {
class Tensor;
}

namespace troupe::wire {

class socket;

// -- pure decoding (no sockets): what unit tests and fuzzers call -------------------------------------------------

inline constexpr std::size_t preamble_bytes = 16;

// "TRPE", u8 major, u8 minor, u8 checksum kind, u8 zero, u64 little-endian checksum of the envelope.
struct envelope_part {
  std::uint8_t minor{};  // of the sender; its major equals ours
  checksum_kind kind{checksum_kind::xxh3};
  std::span<const std::byte> envelope;  // inside the part that was decoded
};

// invalid_request: no message of ours. wrong_version: another major. too_large: envelope above its limit.
// corrupt: checksum does not match.
[[nodiscard]] result<envelope_part> decode_envelope_part(std::span<const std::byte> part);

// Parses with limits on depth and bytes, then refuses what Protobuf lets through: a oneof that is given twice, a
// message whose oneof `body` is not set, enum numbers that this build does not know. invalid_request with the field's
// path. Fields that this build does not know are kept and ignored.
[[nodiscard]] result<void> parse_envelope(std::span<const std::byte> envelope, google::protobuf::Message& target);

// Checks dtype, rank, shape x element size against the part's bytes, and the checksum. `parts` are the tensor parts
// (number 1 first); `field` is the tensor's name in errors. The view points into `parts`.
// invalid_request with the numbers; corrupt when the checksum does not match.
[[nodiscard]] result<tensor_view> decode_tensor(const proto::Tensor& tensor,
                                                std::span<const std::span<const std::byte>> parts, checksum_kind kind,
                                                std::string_view field);

// The same for a tensor in shared memory that both sides have mapped. Its bytes may change under a hostile peer:
// copy or use what is read once, never check and read again.
[[nodiscard]] result<tensor_view> decode_shared_tensor(const proto::Tensor& tensor, std::span<const std::byte> segment,
                                                       std::string_view field);

// Preamble and envelope as one part. too_large above limits::envelope_bytes_max.
[[nodiscard]] result<frame> encode_envelope_part(checksum_kind kind, const google::protobuf::MessageLite& envelope);

// -- sending ------------------------------------------------------------------------------------------------------

class outgoing_message {
 public:
  // Answer a client in the kind that it used.
  explicit outgoing_message(checksum_kind kind = checksum_kind::xxh3) : kind_(kind) {}

  // Adds a part and fills `tensor` (which must belong to the envelope that is sent) with dtype, shape, part number and
  // checksum. The first form copies the bytes; the second keeps `owner` until libzmq has sent them, and nobody may
  // write to them before. invalid_request when shape and bytes do not fit; too_large above limits::tensor_bytes_max or
  // when the message has all its parts.
  result<void> attach(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                      std::span<const std::byte> bytes);
  result<void> attach(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                      std::span<const std::byte> bytes, std::shared_ptr<const void> owner);

  // Parts attached so far, and their bytes.
  [[nodiscard]] std::size_t parts() const { return parts_.size(); }
  [[nodiscard]] std::uint64_t tensor_bytes() const { return tensor_bytes_; }

  // Sends the envelope and the parts without waiting; on a ROUTER socket to the peer `routing_id`. Whatever comes
  // back, this message is used up. After an error the peer gets nothing of it.
  // unavailable: no such peer, or not connected. overloaded: the peer's queue is full. too_large: the envelope.
  result<void> send(socket& to, const google::protobuf::MessageLite& envelope, std::string_view routing_id = {});

 private:
  result<void> add(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape,
                   std::span<const std::byte> bytes, frame part);

  checksum_kind kind_;
  std::uint64_t tensor_bytes_{};
  std::vector<frame> parts_;
};

// Fills `tensor` for bytes that lie at `offset` of the link's shared memory (no part, no checksum).
void describe_shared(proto::Tensor& tensor, dtype type, std::span<const std::uint64_t> shape, std::uint64_t offset,
                     std::uint64_t bytes);

// Lets `other` name the part (or range) that `attached` names: equal tensors travel once.
void share_part(const proto::Tensor& attached, proto::Tensor& other);

// -- receiving ----------------------------------------------------------------------------------------------------

class incoming_message {
 public:
  // Checks the first part; the others are looked at when a tensor names them. @pre as many parts as the limit allows.
  [[nodiscard]] static result<incoming_message> from_parts(std::vector<frame> parts);

  // Answer in this kind.
  [[nodiscard]] checksum_kind kind() const { return kind_; }
  // The sender's minor version.
  [[nodiscard]] std::uint8_t minor() const { return minor_; }
  [[nodiscard]] std::uint64_t bytes() const;

  [[nodiscard]] result<void> parse(google::protobuf::Message& target) const;
  // The view lives as long as this message (also when it is moved) and is aligned for its element type.
  [[nodiscard]] result<tensor_view> tensor(const proto::Tensor& tensor, std::string_view field) const;

 private:
  incoming_message() = default;

  checksum_kind kind_{checksum_kind::xxh3};
  std::uint8_t minor_{};
  std::span<const std::byte> envelope_;
  std::vector<frame> frames_;
  std::vector<std::vector<std::uint64_t>> realigned_;  // copies of the parts that arrived unaligned
  std::vector<std::span<const std::byte>> tensors_;
};

struct received {
  std::string routing_id;    // on a ROUTER socket: whom to answer
  std::string user_id;       // "role:name" of the peer's key; empty on sockets without CURVE
  std::string peer_address;  // for logs; empty on ipc
  // The sender's kind, also of a message that could not be used; CRC-32, which everybody has, when it named none.
  checksum_kind answer_in{checksum_kind::crc32};
  // The error is what to tell the peer: the message could not be used.
  result<incoming_message> message;
};

// Takes the next message off the socket; nullopt when none is waiting. A message with too many parts is read to its
// end and refused as too_large.
[[nodiscard]] std::optional<received> receive(socket& from);

}  // namespace troupe::wire
