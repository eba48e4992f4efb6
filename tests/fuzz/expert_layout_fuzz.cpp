// A peer's word about how a bundle is to be read. What is accepted must say the same after being written anew, and its
// tensors must have exactly the bytes of their shapes.
#include <cstdlib>
#include <span>

#include "common/wire/framing.hpp"
#include "expert_node/shell/layout_wire.hpp"
#include "proto/peer.pb.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace troupe;
  proto::PeerToPeer envelope;
  if (!wire::parse_envelope(std::as_bytes(std::span(data, size)), envelope) || !envelope.has_chunk()) return 0;
  const expert_id id{layer_id::of(0), 0};
  const auto layout = expert::from_proto(id, envelope.chunk().layout());
  if (!layout) return 0;
  for (const auto& tensor : layout->tensors) {
    const auto bytes = checked_bytes(tensor.type, tensor.shape);
    if (!bytes || *bytes != tensor.bytes) std::abort();
  }
  proto::BundleLayout written;
  expert::to_proto(*layout, written);
  const auto again = expert::from_proto(id, written);
  if (!again || again->shape != layout->shape || again->bytes() != layout->bytes()) std::abort();
  return 0;
}
