#include "expert_node/shell/coordinator_messages.hpp"

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "proto/node_coordinator.pb.h"

namespace troupe::expert {
namespace {

proto::SlotState to_wire(slot_report::phase phase) {
  switch (phase) {
    case slot_report::phase::ready:
      return proto::READY;
    case slot_report::phase::failed:
      return proto::FAILED;
    case slot_report::phase::loading:
    case slot_report::phase::freeing:
      break;
  }
  return proto::LOADING;
}

}  // namespace

result<load_expert> from_proto(const proto::LoadExpert& message) {
  load_expert command;
  command.term = {message.term()};
  command.job.slot = {message.slot()};
  command.job.content = {{{message.layer()}, message.expert()}, {message.version()}};
  if (!message.digest().empty()) {
    sha256_digest digest{};
    if (message.digest().size() != digest.size()) {
      return fail(errc::invalid_request,
                  fmt::format("load.digest: {} bytes, expected {} or none", message.digest().size(), digest.size()));
    }
    std::memcpy(digest.data(), message.digest().data(), digest.size());
    command.job.expected = digest;
  }
  for (const auto& peer : message.peers()) {
    command.job.peers.push_back({{peer.node()}, peer.address(), peer.public_key()});
  }
  command.job.folder = message.folder();
  return command;
}

free_slot from_proto(const proto::FreeSlot& message) {
  return {{message.term()}, {message.slot()}, {{{message.layer()}, message.expert()}, {message.version()}}};
}

void to_proto(std::span<const slot_report> slots, proto::Inventory& message) {
  for (const auto& slot : slots) {
    auto& target = *message.add_slots();
    target.set_slot(slot.slot.value);
    target.set_layer(slot.content.expert.layer.value);
    target.set_expert(slot.content.expert.index);
    target.set_version(slot.content.version.value);
    target.set_state(to_wire(slot.state));
    if (slot.facts) {
      target.set_digest(slot.facts->digest.data(), slot.facts->digest.size());
      target.set_bundle_bytes(slot.facts->bundle_bytes);
      target.set_resident_bytes(slot.facts->resident_bytes);
      if (const auto& difference = slot.facts->difference) {
        target.mutable_difference()->set_rows(difference->rows);
        target.mutable_difference()->set_mean(difference->mean);
        target.mutable_difference()->set_largest(difference->largest);
      }
    }
    if (slot.reason) {
      target.mutable_error()->set_code(static_cast<proto::ErrorCode>(slot.reason->code));
      target.mutable_error()->set_message(slot.reason->message);
    }
  }
}

void to_proto(const expert_line& line, proto::NodeStats& message) {
  auto& target = *message.add_experts();
  target.set_layer(line.expert.layer.value);
  target.set_expert(line.expert.index);
  target.set_rows_total(line.totals.rows);
  target.set_calls_total(line.totals.calls);
  target.set_seconds_total(line.totals.seconds);
  target.set_weighted_norm_total(line.totals.weighted_norm);
}

}  // namespace troupe::expert
