#include "coordinator/core/inventories.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/membership.hpp"
#include "coordinator/core/versions.hpp"

namespace troupe::coordinator::inventories {
namespace {

// A replica that says it is ready: verified against the digest that every replica of the expert must have.
slot_life verify(cluster_state& state, const node_id& name, node_entry& node, const slot_report& report) {
  auto& expert = *state.find(report.expert);
  std::string wrong;
  auto expected = versions::digest_of(expert, report.version);
  if (!report.digest) {
    wrong = "the node reported it ready without a digest";
  } else if (expected && *expected != *report.digest) {
    wrong = fmt::format("its digest differs from the one of version {} that was verified first", report.version.value);
  }
  if (!wrong.empty()) {
    note_failure(state, name, node, report.expert, wrong);
    return slot_failed{wrong};
  }
  if (report.version == expert.version && !expert.digest) expert.digest = report.digest;
  expert.last_failure.clear();
  node.failures.erase(report.expert);
  return slot_ready{};
}

slot_life life_of_report(cluster_state& state, const node_id& name, node_entry& node, const slot_report& report) {
  switch (report.state) {
    case reported_slot_state::loading:
      return slot_loading{state.now};
    case reported_slot_state::ready:
      return verify(state, name, node, report);
    case reported_slot_state::failed:
      note_failure(state, name, node, report.expert, report.failure);
      return slot_failed{report.failure};
    case reported_slot_state::freeing:
      break;
  }
  return slot_freeing{state.now, state.now};
}

void update_known(cluster_state& state, const node_id& name, node_entry& node, slot_entry& entry,
                  const slot_report& report) {
  entry.resident_bytes = report.resident_bytes;
  entry.difference = report.difference;
  entry.seen = true;
  auto& life = entry.life;
  switch (report.state) {
    case reported_slot_state::loading:
      if (is_any<slot_ordered, slot_ready, slot_presumed>(life)) life = slot_loading{state.now};
      return;
    case reported_slot_state::ready:
      if (is_any<slot_ordered, slot_loading>(life)) ++state.loads_done;
      if (is_any<slot_ordered, slot_loading, slot_presumed>(life)) life = verify(state, name, node, report);
      return;
    case reported_slot_state::failed:
      if (is_any<slot_freeing, slot_failed>(life)) return;
      life = life_of_report(state, name, node, report);
      return;
    case reported_slot_state::freeing:
      if (!is_any<slot_freeing>(life)) life = slot_freeing{state.now, state.now};
      return;
  }
}

bool has_other_copy(const node_entry& node, const slot_report& report) {
  return std::ranges::any_of(node.slots, [&](const auto& item) {
    return item.first != report.slot && item.second.expert == report.expert && item.second.version == report.version &&
           is_replica(item.second);
  });
}

// The report does not name the slot: is it really empty, or has the node not read our orders yet?
bool may_still_fill(const cluster_state& state, const slot_entry& entry) {
  if (is_any<slot_ordered>(entry.life)) return true;
  const auto* freeing = std::get_if<slot_freeing>(&entry.life);
  return freeing != nullptr && !entry.seen && state.now - freeing->since < limits::order_lifetime_max;
}

// Something that the coordinator did not expect there: after a join, a restart, or a message that came late.
void adopt(cluster_state& state, const node_id& name, node_entry& node, const slot_report& report) {
  node.slots.erase(report.slot);
  const auto* expert = state.find(report.expert);
  bool is_known = expert != nullptr && versions::is_current(*expert, report.version);
  bool useful = is_known && report.slot.value < node.facts.slots_total && !has_other_copy(node, report);
  // A stray is freed by the next pass: no map has ever named it. One of another version may have been in a map that a
  // router still works by.
  bool may_be_in_use = expert != nullptr && !is_known && report.state == reported_slot_state::ready;
  slot_life life = useful          ? life_of_report(state, name, node, report)
                   : may_be_in_use ? slot_life{slot_retiring{epoch_number{0}, state.now}}
                                   : slot_life{slot_freeing{state.now, time_point{}}};
  node.slots.emplace(
      report.slot,
      slot_entry{report.expert, report.version, std::move(life), {}, report.resident_bytes, true, report.difference});
}

}  // namespace

void note_failure(cluster_state& state, const node_id& name, node_entry& node, const expert_id& expert,
                  const std::string& reason) {
  auto& failure = node.failures[expert];
  auto pause = limits::load_retry_min * (1U << std::min(failure.count, 10U));
  ++failure.count;
  failure.not_before = state.now + std::min<duration>(pause, limits::load_retry_max);
  failure.reason = reason;
  ++state.loads_failed;
  if (auto* entry = state.find(expert)) entry->last_failure = fmt::format("{}: {}", name.value, reason);
  state.tell(severity::error, "replica_failed", to_string(expert),
             fmt::format("expert {} could not be loaded on {}: {}; another node is tried, this one again later",
                         to_string(expert), name.value, reason));
  state.dirty = true;
}

void apply(cluster_state& state, const inventory_report& report) {
  auto* node = state.find_member(report.node, report.incarnation);
  if (node == nullptr || !node->is_expert()) return;
  // The node is asked again when that is due, not by each such report: question and answer would follow each other as
  // fast as the network carries them until the node hears of the new term.
  if (report.term != state.term) return;
  if (report.sequence <= node->inventory_sequence) return;
  node->inventory_sequence = report.sequence;
  membership::note_sign_of_life(state, report.node, *node);
  node->inventory_due = state.now + limits::order_resend_after;
  if (report.device_failure) {
    return membership::quarantine(state, report.node, *node, *report.device_failure, std::nullopt);
  }

  std::set<slot_index> seen;
  for (const auto& slot : report.slots) {
    if (!seen.insert(slot.slot).second) continue;
    auto at = node->slots.find(slot.slot);
    bool known = at != node->slots.end() && at->second.expert == slot.expert && at->second.version == slot.version;
    if (known) {
      update_known(state, report.node, *node, at->second, slot);
    } else {
      adopt(state, report.node, *node, slot);
    }
  }
  std::erase_if(node->slots,
                [&](const auto& item) { return !seen.contains(item.first) && !may_still_fill(state, item.second); });
  if (auto* joining = std::get_if<node_joining>(&node->life)) joining->reported = true;
  if (std::holds_alternative<node_expected>(node->life)) node->life = node_serving{state.now};
  state.dirty = true;
}

}  // namespace troupe::coordinator::inventories
