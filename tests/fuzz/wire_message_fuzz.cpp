// Whole messages as a peer may send them. Input: for each part a 3-byte little-endian length, then its bytes. What is
// accepted must be consistent: every view lies inside the message and has the bytes that its shape says.
#include <cstdlib>
#include <vector>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "proto/admin.pb.h"
#include "proto/client_router.pb.h"
#include "proto/common.pb.h"
#include "proto/node_coordinator.pb.h"
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

void look_at(const wire::incoming_message& message, const proto::Tensor& tensor) {
  const auto view = message.tensor(tensor, "tensor");
  if (!view) {
    require(!view.error().message.empty());
    return;
  }
  require(!view->bytes.empty() && view->shape.size() <= limits::tensor_rank_max);
  require(checked_bytes(view->type, view->shape).value() == view->bytes.size());
  require(reinterpret_cast<std::uintptr_t>(view->bytes.data()) % bytes_per_element(view->type) == 0);
  require(view->bytes.size() <= message.bytes());
}

template <class Message>
void try_as(const wire::incoming_message& incoming) {
  Message message;
  const auto parsed = incoming.parse(message);
  require(parsed || !parsed.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  auto parts = cut(std::as_bytes(std::span(data, size)));
  if (parts.empty()) return 0;
  const auto message = wire::incoming_message::from_parts(std::move(parts));
  if (!message) {
    require(!message.error().message.empty());
    return 0;
  }
  proto::RouterToExpert run;
  if (message->parse(run) && run.has_run()) {
    look_at(*message, run.run().hidden());
    look_at(*message, run.run().row_index());
    look_at(*message, run.run().gate_weight());
  }
  proto::RouterToClient reply;
  if (message->parse(reply) && reply.has_layer()) {
    look_at(*message, reply.layer().output());
    look_at(*message, reply.layer().flags());
  }
  try_as<proto::ClientToRouter>(*message);
  try_as<proto::ExpertToRouter>(*message);
  try_as<proto::NodeToCoordinator>(*message);
  try_as<proto::CoordinatorToNode>(*message);
  try_as<proto::PeerToPeer>(*message);
  try_as<proto::AdminRequest>(*message);
  return 0;
}
