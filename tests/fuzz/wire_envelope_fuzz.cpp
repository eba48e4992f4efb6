// Protobuf envelopes behind the preamble (its checksum would keep a fuzzer out). The first byte picks the conversation.
// What is accepted must be accepted again after being written anew, and a cluster map must survive its conversion.
#include <cstdlib>
#include <memory>
#include <string>

#include "common/cluster_map.hpp"
#include "common/wire/framing.hpp"
#include "proto/admin.pb.h"
#include "proto/client_router.pb.h"
#include "proto/common.pb.h"
#include "proto/node_coordinator.pb.h"
#include "proto/peer.pb.h"
#include "proto/router_expert.pb.h"

namespace {

using namespace troupe;

std::unique_ptr<google::protobuf::Message> pick(std::uint8_t number) {
  switch (number % 9) {
    case 0:
      return std::make_unique<proto::ClientToRouter>();
    case 1:
      return std::make_unique<proto::RouterToClient>();
    case 2:
      return std::make_unique<proto::RouterToExpert>();
    case 3:
      return std::make_unique<proto::ExpertToRouter>();
    case 4:
      return std::make_unique<proto::NodeToCoordinator>();
    case 5:
      return std::make_unique<proto::CoordinatorToNode>();
    case 6:
      return std::make_unique<proto::PeerToPeer>();
    case 7:
      return std::make_unique<proto::AdminRequest>();
    default:
      return std::make_unique<proto::HeartbeatReply>();
  }
}

void check_map(const google::protobuf::Message& message) {
  const auto* sent = dynamic_cast<const proto::CoordinatorToNode*>(&message);
  if (sent == nullptr || !sent->has_map()) return;
  const auto map = from_proto(sent->map());
  if (!map) return;
  proto::ClusterMap written;
  to_proto(*map, written);
  const auto again = from_proto(written);
  if (!again || *again != *map) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto message = pick(data[0]);
  if (!wire::parse_envelope(std::as_bytes(std::span(data + 1, size - 1)), *message)) return 0;
  const std::string written = message->SerializeAsString();
  if (!wire::parse_envelope(std::as_bytes(std::span(written)), *message)) std::abort();
  check_map(*message);
  return 0;
}
