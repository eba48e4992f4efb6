#include "coordinator/shell/messages.hpp"

#include <cstring>
#include <set>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "proto/admin.pb.h"
#include "proto/node_coordinator.pb.h"

namespace troupe::coordinator {
namespace {

join_request join_from(const proto::Join& m, std::string peer) {
  node_facts facts;
  facts.role = static_cast<node_role>(m.role());
  facts.pid = m.pid();
  facts.data_address = m.data_address();
  facts.http_address = m.http_address();
  facts.peer_address = m.peer_address();
  facts.public_key = m.public_key();
  facts.machine_id = m.machine_id();
  facts.zone = m.zone();
  facts.device = m.device();
  facts.dtype = m.dtype();
  facts.slots_total = m.slots_total();
  facts.slot_bytes = m.slot_bytes();
  facts.model_fingerprint = m.model_fingerprint();
  return {std::move(peer), m.cluster_id(), {m.node()}, {m.incarnation()}, std::move(facts)};
}

result<slot_report> slot_from(const proto::SlotReport& m, int index) {
  if (m.state() < proto::LOADING || m.state() > proto::FREEING) {
    return fail(errc::invalid_request,
                fmt::format("inventory.slots[{}].state = {} is unknown", index, static_cast<int>(m.state())));
  }
  slot_report report{
      {m.slot()},   {{m.layer()}, m.expert()}, {m.version()},      static_cast<reported_slot_state>(m.state()),
      std::nullopt, m.bundle_bytes(),          m.resident_bytes(), m.has_error() ? m.error().message() : std::string()};
  if (!m.digest().empty()) {
    sha256_digest digest{};
    if (m.digest().size() != digest.size()) {
      return fail(errc::invalid_request,
                  fmt::format("inventory.slots[{}].digest has {} bytes, not 32", index, m.digest().size()));
    }
    std::memcpy(digest.data(), m.digest().data(), digest.size());
    report.digest = digest;
  }
  if (m.has_difference() && m.difference().rows() > 0) {
    report.difference = output_difference{m.difference().rows(), m.difference().mean(), m.difference().largest()};
  }
  return report;
}

result<std::optional<event>> inventory_from(const proto::Inventory& m) {
  inventory_report report{{m.node()}, {m.incarnation()}, m.sequence(), {m.term()}, {}};
  for (int i = 0; i < m.slots_size(); ++i) {
    auto slot = slot_from(m.slots(i), i);
    if (!slot) return fail(slot.error());
    report.slots.push_back(*std::move(slot));
  }
  if (m.has_device_failure()) report.device_failure = m.device_failure().message();
  return event{std::move(report)};
}

result<std::optional<event>> stats_from(const proto::NodeStats& m) {
  stats_report report{{m.node()}, {m.incarnation()}, m.resident_set_bytes(), m.queue_rows(), {}};
  if (m.has_cold_fingerprint()) report.cold_fingerprint = m.cold_fingerprint();
  report.batches_total = m.batches_total();
  for (const auto& line : m.paces()) {
    if (proto::Pace_IsValid(line.pace()))
      report.paces.push_back({{line.node()}, static_cast<node_pace>(line.pace()), line.reason()});
  }
  for (const auto& expert : m.experts()) {
    report.experts.push_back({{{expert.layer()}, expert.expert()},
                              expert.rows_total(),
                              expert.calls_total(),
                              expert.masked_rows_total(),
                              expert.masked_mass_total(),
                              expert.weighted_norm_total()});
  }
  for (const auto& layer : m.pairs()) {
    auto counts = pair_counts_from(layer);
    if (!counts) return fail(counts.error());
    report.pairs.push_back({{layer.layer()}, layer.number(), *std::move(counts)});
  }
  return event{std::move(report)};
}

void put_digest(const std::optional<sha256_digest>& digest, std::string& target) {
  if (digest) target.assign(reinterpret_cast<const char*>(digest->data()), digest->size());
}

void put(const join_reply& reply, proto::CoordinatorToNode& target) {
  auto& m = *target.mutable_join_reply();
  m.set_accepted(!reply.refused);
  if (reply.refused) {
    to_proto(*reply.refused, *m.mutable_error());
    m.mutable_error()->set_retry_after_ms(reply.retry_after_ms);
  }
  m.set_term(reply.term.value);
  m.set_epoch(reply.epoch.value);
}

void put(const load_order& order, proto::CoordinatorToNode& target) {
  auto& m = *target.mutable_load();
  m.set_term(order.term.value);
  m.set_command(order.command);
  m.set_slot(order.slot.value);
  m.set_layer(order.expert.layer.value);
  m.set_expert(order.expert.index);
  m.set_version(order.version.value);
  put_digest(order.digest, *m.mutable_digest());
  m.set_folder(order.folder);
  for (const auto& peer : order.peers) {
    auto& p = *m.add_peers();
    p.set_node(peer.node.value);
    p.set_address(peer.address);
    p.set_public_key(peer.public_key);
  }
}

void put(const free_order& order, proto::CoordinatorToNode& target) {
  auto& m = *target.mutable_free();
  m.set_term(order.term.value);
  m.set_command(order.command);
  m.set_slot(order.slot.value);
  m.set_layer(order.expert.layer.value);
  m.set_expert(order.expert.index);
  m.set_version(order.version.value);
}

void put(const cold_notice& notice, proto::CoordinatorToNode& target) {
  auto& m = *target.mutable_cold();
  m.set_term(notice.term.value);
  m.set_fingerprint(notice.fingerprint);
  for (const auto& expert : notice.experts) {
    auto& line = *m.add_experts();
    line.set_layer(expert.layer.value);
    line.set_expert(expert.index);
  }
}

result<refresh_weights> refresh_from(const proto::RefreshWeights& m) {
  refresh_weights what{m.folder(), std::nullopt, m.dry_run()};
  if (m.layer().empty()) return what;
  what.layer = parse_layer(m.layer());
  if (!what.layer) return fail(errc::invalid_request, "refresh.layer is no layer; write its number, or encoder.3");
  return what;
}

apply_placement placement_from(const proto::ApplyPlacement& m) {
  apply_placement what;
  what.dry_run = m.dry_run();
  for (const auto& placed : m.experts()) {
    auto& expert = what.experts.emplace_back();
    expert.expert = {{placed.layer()}, placed.expert()};
    for (const auto& node : placed.nodes()) expert.nodes.push_back({node});
  }
  return what;
}

void put(const inventory_request&, proto::CoordinatorToNode& target) { target.mutable_report_inventory(); }

}  // namespace

result<std::optional<event>> event_from(const proto::NodeToCoordinator& message, std::string peer) {
  using body = proto::NodeToCoordinator;
  switch (message.body_case()) {
    case body::kJoin:
      return event{join_from(message.join(), std::move(peer))};
    case body::kInventory:
      return inventory_from(message.inventory());
    case body::kMapAck: {
      const auto& m = message.map_ack();
      return event{map_acknowledged{{m.node()}, {m.incarnation()}, {m.term()}, {m.epoch()}, {m.uses_since()}}};
    }
    case body::kStats:
      return stats_from(message.stats());
    case body::kLeave:
      return event{leave_request{{message.leave().node()}, {message.leave().incarnation()}}};
    default:
      return std::nullopt;
  }
}

result<std::optional<admin_command>> command_from(const proto::AdminRequest& message, std::string peer) {
  using body = proto::AdminRequest;
  admin_command command{std::move(peer), message.command_id(), stop_cluster{}};
  switch (message.body_case()) {
    case body::kDrain:
      command.what = drain_node{{message.drain().node()}, message.drain().dry_run()};
      return command;
    case body::kUndrain:
      command.what = undrain_node{{message.undrain().node()}, message.undrain().dry_run()};
      return command;
    case body::kRemove:
      command.what = remove_node{{message.remove().node()}, message.remove().dry_run(), message.remove().force()};
      return command;
    case body::kStop:
      return command;
    case body::kMigrate: {
      const auto& m = message.migrate();
      migrate_expert what{{{m.layer()}, m.expert()}, {m.to()}, std::nullopt, m.dry_run()};
      if (!m.from().empty()) what.from = node_id{m.from()};
      command.what = what;
      return command;
    }
    case body::kReplicate: {
      const auto& m = message.replicate();
      command.what = replicate_expert{{{m.layer()}, m.expert()}, m.count(), m.dry_run()};
      return command;
    }
    case body::kPin: {
      const auto& m = message.pin();
      command.what = pin_expert{{{m.layer()}, m.expert()}, m.pinned(), m.dry_run()};
      return command;
    }
    case body::kPresence: {
      const auto& m = message.presence();
      if (m.verb() < proto::PRUNE || m.verb() > proto::ADD)
        return fail(errc::invalid_request, fmt::format("presence.verb = {} is unknown", static_cast<int>(m.verb())));
      command.what =
          change_presence{{{m.layer()}, m.expert()}, static_cast<change_presence::verb>(m.verb() - 1), m.dry_run()};
      return command;
    }
    case body::kRefresh: {
      auto what = refresh_from(message.refresh());
      if (!what) return fail(what.error());
      command.what = *std::move(what);
      return command;
    }
    case body::kRollback:
      command.what = roll_back_placement{{message.rollback().epoch()}, message.rollback().dry_run()};
      return command;
    case body::kApply:
      command.what = placement_from(message.apply());
      return command;
    case body::kSchedule: {
      const auto& m = message.schedule();
      command.what = schedule_refresh{std::chrono::milliseconds(m.every_ms()),
                                      m.folder(),
                                      m.paused(),
                                      m.dry_run(),
                                      m.every_batches(),
                                      m.max_moves()};
      return command;
    }
    case body::kCancel:
      command.what = cancel_operation{message.cancel().operation(), message.cancel().dry_run()};
      return command;
    default:
      return std::nullopt;
  }
}

void to_proto(const node_message& message, proto::CoordinatorToNode& target) {
  std::visit([&](const auto& what) { put(what, target); }, message.what);
}

void to_proto(const error& failure, proto::Error& target) {
  target.set_code(static_cast<proto::ErrorCode>(failure.code));
  target.set_message(failure.message);
}

result<void> check_hello(const proto::Hello& hello, const std::string& cluster_id) {
  if (hello.wire_major() != limits::wire_version_major) {
    return fail(
        errc::wrong_version,
        fmt::format("peer speaks wire version {}.{}, this coordinator {}.{}; upgrade the coordinator first, then "
                    "expert nodes, then routers and clients",
                    hello.wire_major(), hello.wire_minor(), limits::wire_version_major, limits::wire_version_minor));
  }
  if (!hello.cluster_id().empty() && hello.cluster_id() != cluster_id) {
    return fail(errc::wrong_cluster,
                fmt::format("{} belongs to cluster {}, this is {}; stop it, or point it to its own coordinator",
                            hello.node().empty() ? "this client" : hello.node(), hello.cluster_id(), cluster_id));
  }
  return {};
}

void fill_welcome(const std::string& cluster_id, const std::string& name, std::uint64_t incarnation,
                  proto::Welcome& target) {
  target.set_wire_major(limits::wire_version_major);
  target.set_wire_minor(limits::wire_version_minor);
  target.set_cluster_id(cluster_id);
  target.set_node(name);
  target.set_incarnation(incarnation);
  target.set_software(limits::software);
  target.set_tensor_bytes_max(limits::tensor_bytes_max);
  target.set_envelope_bytes_max(limits::envelope_bytes_max);
  target.set_parts_max(limits::parts_per_message_max);
  target.set_rows_per_request_max(limits::rows_per_request_max);
}

}  // namespace troupe::coordinator
