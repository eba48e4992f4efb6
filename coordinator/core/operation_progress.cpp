#include <algorithm>
#include <span>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/publisher.hpp"
#include "coordinator/core/reconciler.hpp"
#include "coordinator/core/versions.hpp"

// How far operations are, from what the nodes reported last.
namespace troupe::coordinator::operations {
namespace {

// Silent for a moment counts: no operation ends over that.
bool stays_in_use(const node_entry& node) { return node.is_expert() && is_serving(node) && !node.is_draining(); }

// The slot of the expert in that version on that node; a replica before what is left of one.
const std::pair<const slot_index, slot_entry>* slot_of(const node_entry& node, const expert_id& expert,
                                                       weights_version version) {
  const std::pair<const slot_index, slot_entry>* found = nullptr;
  for (const auto& item : node.slots) {
    if (item.second.expert != expert || item.second.version != version) continue;
    found = &item;
    if (is_replica(item.second)) return found;
  }
  return found;
}

step step_of_wanted(const cluster_state& state, const node_id& name, const expert_entry& expert) {
  auto node = state.nodes.find(name);
  if (node == state.nodes.end()) return step::reserve;
  const auto* slot = slot_of(node->second, expert.id, expert.wish.version);
  if (slot == nullptr || is_any<slot_ordered, slot_failed, slot_freeing>(slot->second)) return step::reserve;
  if (is_any<slot_loading>(slot->second)) return step::copy;
  return reconciler::is_published(state, name, slot->first, expert.id) ? step::complete : step::publish;
}

step step_of_surplus(const slot_entry& entry) {
  if (is_any<slot_ready, slot_presumed>(entry)) return step::acknowledge;
  return is_any<slot_retiring>(entry) ? step::drain : step::free;
}

bool has_no_slot(const node_entry& node) { return node.slots.size() >= node.facts.slots_total; }

bool fails_on(const node_entry& node, const expert_id& expert) {
  auto failure = node.failures.find(expert);
  return failure != node.failures.end() && failure->second.count >= limits::operation_load_failures_max;
}

bool is_wanted_on(const expert_entry& expert, const node_id& name) {
  return std::ranges::find(expert.wanted, name) != expert.wanted.end();
}

// Going back: nodes that cannot take the replica any more are not waited for.
bool can_go_back_to(const cluster_state& state, const node_id& name, const expert_entry& expert) {
  auto at = state.nodes.find(name);
  if (at == state.nodes.end() || !stays_in_use(at->second)) return false;
  const auto& node = at->second;
  if (fails_on(node, expert.id)) return false;
  return slot_of(node, expert.id, expert.wish.version) != nullptr || node.slots.size() < node.facts.slots_total;
}

// What the plan does not want yet though the operation does; empty: nothing.
std::string missing_in_plan(const cluster_state& state, const expert_entry& expert, const operation_record& operation) {
  if (operation.cancelling) {
    std::size_t back = 0;
    for (const auto& name : operation.from) {
      if (back++ == std::max(operation.replicas_before, 1U)) break;
      if (!is_wanted_on(expert, name) && can_go_back_to(state, name, expert))
        return fmt::format("its replica comes back to {}", name.value);
    }
    return "";
  }
  if (operation.kind == operation_kind::migrate && !is_wanted_on(expert, operation.node))
    return fmt::format("no slot of {} is free", operation.node.value);
  bool brings_back = operation.kind == operation_kind::restore || operation.kind == operation_kind::add;
  if (brings_back && expert.wanted.empty()) return "no node has a free slot";
  if (operation.kind == operation_kind::replicate && expert.wanted.size() != operation.replicas_after)
    return fmt::format("there is room for {} of {} replicas", expert.wanted.size(), operation.replicas_after);
  return "";
}

// `waits_for`: what the plan lacks; empty: nothing.
progress look_at_expert(const cluster_state& state, const expert_entry& expert, std::string waits_for) {
  bool is_placed = expert.wanted.empty() != is_present(expert);
  auto at = waits_for.empty() && is_placed ? step::complete : step::reserve;
  for (const auto& name : expert.wanted) {
    auto seen = step_of_wanted(state, name, expert);
    if (seen >= at) continue;
    at = seen;
    waits_for = name.value;
  }
  bool has_surplus = false;
  for (const auto& [name, node] : state.nodes) {
    if (!is_serving(node)) continue;
    for (const auto& [slot, entry] : node.slots) {
      if (entry.expert != expert.id) continue;
      if (entry.version == expert.wish.version && is_wanted_on(expert, name)) continue;
      if (!versions::pinned_by(state, entry).empty()) continue;  // goes when these texts have ended
      has_surplus = true;
      if (step_of_surplus(entry) >= at) continue;
      at = step_of_surplus(entry);
      waits_for = name.value;
    }
  }
  // Not by a map that is about to be replaced: the next one may lack a replica that is wanted again only since then.
  bool is_mapped = is_masked(state, expert.id) != is_present(expert) && expert.version == expert.wish.version &&
                   !publisher::is_writing_map(state);
  if (at == step::complete && !is_mapped) at = step::publish;
  if (at == step::complete && !has_surplus && !reconciler::all_routers_know(state, state.published->epoch))
    at = step::acknowledge;
  return {at, static_cast<double>(at) / static_cast<double>(step::complete), waits_for};
}

progress look_at_one(const cluster_state& state, const operation_record& operation) {
  const auto* expert = state.find(operation.expert);
  if (expert == nullptr) return {step::reserve, 0, "the model has no such expert"};
  return look_at_expert(state, *expert, missing_in_plan(state, *expert, operation));
}

// A node that the change names, takes work and does not get the expert by the plan; nullptr: none.
const node_id* missing_place(const cluster_state& state, const expert_entry& expert, const wish_change& change) {
  if (!is_present(expert) || expert.wish.nodes.empty() || change.before.nodes == change.after.nodes) return nullptr;
  auto count = std::min<std::size_t>(expert.wish.nodes.size(), wanted_replicas(state, expert));
  for (const auto& name : std::span(expert.wish.nodes).first(count)) {
    auto at = state.nodes.find(name);
    if (at != state.nodes.end() && stays_in_use(at->second) && !is_wanted_on(expert, name)) return &name;
  }
  return nullptr;
}

// At the step of whichever of these experts is least far. The fraction: the mean of theirs.
progress look_at_layer(const cluster_state& state, std::span<const wish_change> changes) {
  progress whole{step::complete, 0, ""};
  for (const auto& change : changes) {
    const auto* expert = state.find(change.expert);
    if (expert == nullptr) continue;
    const auto* missing = missing_place(state, *expert, change);
    auto seen = look_at_expert(state, *expert, missing == nullptr ? "" : fmt::format("a slot of {}", missing->value));
    whole.fraction += seen.fraction / static_cast<double>(changes.size());
    if (seen.at >= whole.at) continue;
    whole.at = seen.at;
    whole.detail =
        fmt::format("expert {}{}{}", to_string(change.expert), seen.detail.empty() ? "" : " on ", seen.detail);
  }
  return whole;
}

progress look_at_many(const cluster_state& state, const operation_record& operation) {
  const auto course = course_of(state, operation);
  if (course.begun == 0) return {step::reserve, 0, "the first layer"};
  auto newest = look_at_layer(state, course.newest);
  if (newest.at == step::complete && !course.rest.empty()) {
    newest.at = step::reserve;
    newest.detail = "free slots for its next experts";
  }
  const auto size = static_cast<double>(course.newest.size());
  newest.fraction = (static_cast<double>(course.begun) + size * (newest.fraction - 1)) /
                    static_cast<double>(operation.changes.size());
  return newest;
}

progress look_at_drain(const cluster_state& state, const operation_record& operation) {
  auto node = state.nodes.find(operation.node);
  if (node == state.nodes.end() || !node->second.drain) return {step::reserve, 0, "the node is gone"};
  const auto& slots = node->second.slots;
  if (node->second.drain->done) return {step::complete, 1, ""};
  auto at = step::free;
  for (const auto& [slot, entry] : slots) {
    if (is_any<slot_ready, slot_presumed>(entry)) {
      at = step::copy;
      break;
    }
    if (is_any<slot_retiring>(entry)) at = step::drain;
  }
  auto total = std::max<std::size_t>({node->second.drain->replicas_at_start, slots.size(), 1});
  return {at, 1 - static_cast<double>(slots.size()) / static_cast<double>(total),
          fmt::format("{} slots of {} are left", slots.size(), operation.node.value)};
}

// Why no node can take the replica that is missing; empty: one can, or none is missing.
std::string obstacle_of_replica(const cluster_state& state, const expert_entry& expert) {
  std::string reason;
  for (const auto& [name, node] : state.nodes) {
    if (!stays_in_use(node) || slot_of(node, expert.id, expert.wish.version) != nullptr) continue;
    if (!fails_on(node, expert.id)) return "";
    reason = fmt::format("{} could not load it: {}", name.value, node.failures.at(expert.id).reason);
  }
  return reason;
}

// No node could take one more replica of the expert, and nothing is under way that would change that.
bool has_no_room(const cluster_state& state, const expert_entry& expert) {
  return is_at_rest(state) && std::ranges::all_of(state.nodes, [&](const auto& item) {
           const auto& node = item.second;
           bool has_it = slot_of(node, expert.id, expert.wish.version) != nullptr;
           return has_it || !stays_in_use(node) || has_no_slot(node);
         });
}

std::string obstacle_of_many(const cluster_state& state, const operation_record& operation) {
  for (const auto& change : operation.changes) {
    const auto* expert = state.find(change.expert);
    if (expert == nullptr || !is_present(*expert)) continue;
    const auto* missing = missing_place(state, *expert, change);
    if (missing != nullptr && is_at_rest(state) && has_no_slot(state.nodes.at(*missing)))
      return fmt::format("expert {}: no slot of {} is free", to_string(change.expert), missing->value);
    bool is_flipping = expert->wish.version != expert->version;
    if (!is_flipping && !expert->wanted.empty()) continue;
    auto reason = obstacle_of_replica(state, *expert);
    auto needed = is_flipping ? versions::replicas_to_flip(state, *expert) : 1;
    if (reason.empty() && expert->wanted.size() < needed && has_no_room(state, *expert))
      reason = "no node has a free slot for it";
    if (!reason.empty()) return fmt::format("expert {}: {}", to_string(change.expert), reason);
  }
  return "";
}

}  // namespace

bool is_at_rest(const cluster_state& state) {
  const auto stays = [&](const node_id& name, const slot_entry& entry) {
    const auto* expert = state.find(entry.expert);
    if (expert == nullptr || !is_any<slot_ready, slot_presumed>(entry)) return false;
    if (entry.version == expert->wish.version) return is_wanted_on(*expert, name);
    return entry.version == expert->version;
  };
  return !publisher::is_writing_map(state) && std::ranges::all_of(state.nodes, [&](const auto& item) {
    const auto& [name, node] = item;
    if (!node.is_expert() || !is_member(node)) return true;
    return std::ranges::all_of(node.slots, [&, &name = name](const auto& slot) { return stays(name, slot.second); });
  });
}

// Why it can never be completed as things are; empty: it can.
std::string obstacle(const cluster_state& state, const operation_record& operation) {
  if (!operation.changes.empty()) return obstacle_of_many(state, operation);
  const auto* expert = state.find(operation.expert);
  if (expert == nullptr) return "the model has no such expert";
  if (operation.kind == operation_kind::prune) return "";
  if (operation.kind == operation_kind::migrate) {
    auto at = state.nodes.find(operation.node);
    if (at == state.nodes.end() || at->second.removed) return fmt::format("{} was removed", operation.node.value);
    const auto& target = at->second;
    if (target.is_draining()) return fmt::format("{} is being drained", operation.node.value);
    // It served when the operation began.
    if (std::holds_alternative<node_joining>(target.life))
      return fmt::format("{} was lost meanwhile and is joining again", operation.node.value);
    if (!is_serving(target))
      return fmt::format("{} is {}", operation.node.value, troupe::to_string(shown_state(target)));
    if (fails_on(target, expert->id))
      return fmt::format("{} could not load it: {}", operation.node.value, target.failures.at(operation.expert).reason);
    return "";
  }
  return obstacle_of_replica(state, *expert);
}

std::string_view to_string(step s) {
  constexpr std::string_view names[] = {"reserve", "copy", "publish", "acknowledge", "drain", "free", "complete"};
  return names[static_cast<std::size_t>(s)];
}

progress look(const cluster_state& state, const operation_record& operation) {
  if (operation.kind == operation_kind::drain) return look_at_drain(state, operation);
  return operation.changes.empty() ? look_at_one(state, operation) : look_at_many(state, operation);
}

bool are_complete(const cluster_state& state, std::span<const wish_change> changes) {
  return look_at_layer(state, changes).at == step::complete;
}

}  // namespace troupe::coordinator::operations
