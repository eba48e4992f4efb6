// Between the coordinator's messages and the host's words. Pure functions, any thread.
#pragma once

#include <span>

#include "common/error.hpp"
#include "expert_node/shell/actors.hpp"

namespace troupe::proto {
class FreeSlot;
class Inventory;
class LoadExpert;
class NodeStats;
}  // namespace troupe::proto

namespace troupe::expert {

// invalid_request: the digest is neither empty nor 32 bytes.
[[nodiscard]] result<load_expert> from_proto(const proto::LoadExpert& message);
[[nodiscard]] free_slot from_proto(const proto::FreeSlot& message);

// A slot that is being emptied is reported as LOADING: taken, and not to be used.
void to_proto(std::span<const slot_report> slots, proto::Inventory& message);
void to_proto(const expert_line& line, proto::NodeStats& message);

}  // namespace troupe::expert
