#include "coordinator/core/reconciler.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/inventories.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/placement_reasons.hpp"
#include "coordinator/core/publisher.hpp"
#include "coordinator/core/versions.hpp"

namespace troupe::coordinator::reconciler {
namespace {

std::map<slot_index, slot_entry>::iterator find_replica(node_entry& node, const expert_id& expert,
                                                        weights_version version) {
  return std::ranges::find_if(node.slots, [&](const auto& item) {
    return item.second.expert == expert && item.second.version == version && is_replica(item.second);
  });
}

void order_free(cluster_state& state, const node_id& name, node_entry& node, slot_index slot) {
  auto& entry = node.slots.at(slot);
  const auto* before = std::get_if<slot_freeing>(&entry.life);
  entry.life = slot_freeing{before != nullptr ? before->since : state.now, state.now};
  state.out.messages.push_back(
      {node.peer, name, free_order{state.term, ++state.last_order, slot, entry.expert, entry.version}});
}

void send_load(cluster_state& state, const node_id& name, node_entry& node, slot_index slot) {
  const auto& entry = node.slots.at(slot);
  const auto& expert = *state.find(entry.expert);
  load_order order{state.term, ++state.last_order, slot, expert.id, entry.version, {}, {}};
  order.digest = versions::digest_of(expert, entry.version);
  order.folder = versions::folder_of(state, entry.version);
  for (const auto& [other_name, other] : state.nodes) {
    bool has = other_name != name && is_serving(other) && !other.facts.peer_address.empty() &&
               std::ranges::any_of(other.slots, [&](const auto& item) {
                 return item.second.expert == expert.id && item.second.version == entry.version &&
                        is_any<slot_ready>(item.second);
               });
    if (has) order.peers.push_back({other_name, other.facts.peer_address, other.facts.public_key});
  }
  state.out.messages.push_back({node.peer, name, std::move(order)});
}

// -- the plan ---------------------------------------------------------------------------------------------------------

bool may_place(cluster_state& state) {
  std::uint32_t serving = 0;
  for (const auto& [name, node] : state.nodes) {
    if (std::holds_alternative<node_expected>(node.life)) return false;  // wait for what they report
    if (node.is_expert() && is_serving(node)) ++serving;
  }
  if (state.placed) return true;
  if (!state.first_join || serving == 0) return false;
  bool waited = state.now - *state.first_join >= limits::first_placement_grace;
  if (serving < state.settings.expert_nodes && !waited) return false;
  state.placed = true;
  state.tell(severity::info, "placement_begins", state.settings.cluster_id,
             fmt::format("placing {} experts, {} replicas each, on {} nodes", state.experts.size(),
                         state.settings.replication, serving));
  return true;
}

std::uint32_t loads_in_flight(const node_entry& node) {
  return static_cast<std::uint32_t>(std::ranges::count_if(
      node.slots, [](const auto& item) { return is_any<slot_ordered, slot_loading>(item.second); }));
}

std::optional<slot_index> free_slot(const node_entry& node) {
  slot_index slot{0};
  for (const auto& [used, entry] : node.slots) {
    if (slot < used) break;
    slot.value = used.value + 1;
  }
  if (slot.value >= node.facts.slots_total) return std::nullopt;
  return slot;
}

void carry_out_add(cluster_state& state, const planner_input& view, const planned_move& move) {
  const auto& name = view.nodes[move.node].name;
  auto& node = state.nodes.at(name);
  if (loads_in_flight(node) >= limits::loads_per_node_max) return;
  auto slot = free_slot(node);
  if (!slot) return;
  std::optional<node_id> replaces;
  if (move.replaces) replaces = view.nodes[*move.replaces].name;
  node.slots.emplace(*slot, slot_entry{move.expert, state.find(move.expert)->wish.version,
                                       slot_ordered{state.now, state.now}, replaces});
  node.slots.at(*slot).came_for = placement_reasons::of(state, view, move);
  send_load(state, name, node, *slot);
}

// How many wanted replicas of the expert serve already, known to every live router. `except`: not counted.
std::uint32_t established(const cluster_state& state, const expert_entry& expert, const node_id& except) {
  std::uint32_t count = 0;
  for (const auto& name : expert.wanted) {
    auto at = state.nodes.find(name);
    if (name == except || at == state.nodes.end() || !is_serving(at->second)) continue;
    const auto& node = at->second;
    count += static_cast<std::uint32_t>(std::ranges::count_if(node.slots, [&](const auto& item) {
      return item.second.expert == expert.id && is_any<slot_ready>(item.second) &&
             is_published(state, name, item.first, expert.id);
    }));
  }
  return count;
}

void carry_out_drop(cluster_state& state, const planner_input& view, const planned_move& move) {
  const auto& name = view.nodes[move.node].name;
  auto& node = state.nodes.at(name);
  const auto& expert = *state.find(move.expert);
  auto at = find_replica(node, move.expert, expert.wish.version);
  if (at == node.slots.end()) return;
  auto& [slot, entry] = *at;
  entry.goes_for = placement_reasons::of(state, view, move);
  if (is_any<slot_ordered, slot_loading>(entry)) return order_free(state, name, node, slot);
  if (!is_any<slot_ready>(entry)) return;
  if (!all_routers_know(state, state.published->epoch)) return;
  if (!is_present(expert)) {
    if (is_masked(state, expert.id)) entry.life = slot_retiring{epoch_number{0}, state.now};
    return;
  }
  auto needed = std::max<std::size_t>(expert.wanted.size(), 1);
  if (established(state, expert, name) < needed) return;
  // A node that died in the meantime, though nobody knows it yet, is not heard again: the old replica stays.
  auto heard_since = [&](const node_id& other) { return state.nodes.at(other).last_heard > state.last_acked; };
  if (!std::ranges::all_of(expert.wanted, heard_since)) return;
  entry.life = slot_retiring{epoch_number{0}, state.now};
  entry.replaces.reset();
}

// A replica on its way out whose node the plan wants again, or which is the last one: back into the map. Nothing was
// freed yet, so it is as good as before.
void revive(cluster_state& state) {
  for (auto& [name, node] : state.nodes) {
    if (!is_serving(node)) continue;
    for (auto& [slot, entry] : node.slots) {
      if (!is_any<slot_retiring>(entry)) continue;
      const auto& expert = *state.find(entry.expert);
      if (!versions::is_current(expert, entry.version)) continue;
      bool is_wanted = std::ranges::find(expert.wanted, name) != expert.wanted.end();
      bool wanted = is_wanted && entry.version == expert.wish.version;
      bool last =
          entry.version == expert.version && !is_masked(state, expert.id) && established(state, expert, name) == 0;
      if (wanted || last) entry.life = slot_ready{};
    }
  }
}

// A replica that has taken the place of another: the exchange is over once the other is gone.
void close_exchanges(cluster_state& state) {
  for (auto& [name, node] : state.nodes) {
    for (auto& [slot, entry] : node.slots) {
      if (!entry.replaces) continue;
      auto* other = state.find(*entry.replaces);
      if (other == nullptr || find_replica(*other, entry.expert, entry.version) == other->slots.end())
        entry.replaces.reset();
    }
  }
}

void plan(cluster_state& state) {
  close_exchanges(state);
  auto view = planner_view(state);
  auto planned = plan_placement(view);
  state.replicas_missing = planned.replicas_missing;
  state.planned = true;
  for (std::size_t e = 0; e < state.experts.size(); ++e) {
    auto& wanted = state.experts[e].wanted;
    wanted.clear();
    for (auto n : planned.wanted[e]) wanted.push_back(view.nodes[n].name);
  }
  for (const auto& move : planned.moves) {
    if (move.kind == move_kind::add) carry_out_add(state, view, move);
  }
  for (const auto& move : planned.moves) {
    if (move.kind == move_kind::drop) carry_out_drop(state, view, move);
  }
}

// -- slots on their way
// -------------------------------------------------------------------------------------------------

bool is_overdue(const cluster_state& state, const slot_entry& entry) {
  const auto* ordered = std::get_if<slot_ordered>(&entry.life);
  const auto* loading = std::get_if<slot_loading>(&entry.life);
  return (ordered != nullptr && state.now - ordered->first_sent > limits::load_timeout) ||
         (loading != nullptr && state.now - loading->since > limits::load_timeout);
}

void advance_slot(cluster_state& state, const node_id& name, node_entry& node, slot_index slot) {
  auto& entry = node.slots.at(slot);
  if (is_overdue(state, entry)) {
    inventories::note_failure(state, name, node, entry.expert, "the load did not end in time");
    return order_free(state, name, node, slot);
  }
  if (is_any<slot_failed>(entry)) return order_free(state, name, node, slot);
  if (auto* ordered = std::get_if<slot_ordered>(&entry.life)) {
    if (state.now - ordered->last_sent < limits::order_resend_after) return;
    ordered->last_sent = state.now;
    return send_load(state, name, node, slot);
  }
  if (const auto* freeing = std::get_if<slot_freeing>(&entry.life)) {
    if (state.now - freeing->last_sent >= limits::order_resend_after) order_free(state, name, node, slot);
    return;
  }
  if (const auto* retiring = std::get_if<slot_retiring>(&entry.life)) {
    // Right after a restart the routers that still use the slot may not have come back yet.
    bool routers_are_back = state.now >= state.routers_back;
    bool is_out = retiring->epoch.value > 0 && state.published->epoch >= retiring->epoch;
    if (!is_out || !routers_are_back || !all_routers_know(state, retiring->epoch)) return;
    auto pinned = versions::pinned_by(state, entry);
    if (!pinned.empty() && state.now - retiring->since < limits::pinned_versions_kept_max) return;
    if (!pinned.empty()) {
      state.tell(severity::warning, "version_given_up", to_string(entry.expert),
                 fmt::format("version {} of expert {} is freed on {} after {} s, though texts of {} are pinned to it; "
                             "they go on with the served version, or fail where that was asked for",
                             entry.version.value, to_string(entry.expert), name.value,
                             limits::pinned_versions_kept_max.count(), names(pinned)));
    }
    order_free(state, name, node, slot);
  }
}

// What is neither served nor wanted any more goes: the old version once a layer has gone over, the new one of a refresh
// that was cancelled.
void leave_old_version(cluster_state& state, const node_id& name, node_entry& node, slot_index slot) {
  auto& entry = node.slots.at(slot);
  if (!is_any<slot_ordered, slot_loading, slot_ready>(entry)) return;
  const auto& expert = *state.find(entry.expert);
  if (is_any<slot_ordered, slot_loading>(entry) && entry.version != expert.wish.version)
    return order_free(state, name, node, slot);
  if (!is_any<slot_ready>(entry) || versions::is_current(expert, entry.version)) return;
  if (publisher::is_writing_map(state)) return;  // which may name it
  entry.goes_for = fmt::format("version {} is no longer served", entry.version.value);
  entry.replaces.reset();
  entry.life = slot_retiring{epoch_number{0}, state.now};
}

// Reports get lost like orders: whoever has something under way, or has not reported at all, is asked.
void ask_for_inventory(cluster_state& state, const node_id& name, node_entry& node) {
  if (!node.is_expert() || state.now < node.inventory_due) return;
  bool has_reported = node.inventory_sequence > 0;
  bool at_rest = has_reported && std::ranges::all_of(node.slots, [](const auto& item) {
                   return is_any<slot_ready, slot_retiring>(item.second);
                 });
  if (at_rest && state.now < node.inventory_due + limits::inventory_refresh) return;
  node.inventory_due = state.now + limits::order_resend_after;
  state.out.messages.push_back({node.peer, name, inventory_request{}});
}

void finish_drain(cluster_state& state, const node_id& name, node_entry& node) {
  if (!node.drain || node.drain->done || !node.slots.empty()) return;
  node.drain->done = true;
  state.tell(severity::info, "node_drained", name.value, fmt::format("{} is empty; it can be stopped", name.value));
}

// The first placement is over once everything that can be served is served.
void settle(cluster_state& state) {
  if (state.settled || !state.placed) return;
  bool all = std::ranges::all_of(state.experts, [](const expert_entry& expert) {
    const auto* active = std::get_if<expert_active>(&expert.life);
    auto has = active == nullptr ? 0U : active->replicas;
    return !expert.last_failure.empty() || has >= expert.wanted.size();
  });
  bool idle = std::ranges::all_of(state.nodes, [](const auto& item) { return loads_in_flight(item.second) == 0; });
  if (!all || !idle) return;
  state.settled = true;
  state.tell(severity::info, "placement_done", state.settings.cluster_id, "the first placement is complete");
}

}  // namespace

bool all_routers_know(const cluster_state& state, epoch_number epoch) {
  return std::ranges::all_of(state.nodes, [&](const auto& item) {
    const auto& node = item.second;
    if (node.facts.role != node_role::router || !is_member(node)) return true;
    return node.acked_term == state.term && node.acked_epoch >= epoch;
  });
}

bool is_published(const cluster_state& state, const node_id& node, slot_index slot, const expert_id& expert) {
  const auto* in_map = state.published->find(expert);
  if (in_map == nullptr) return false;
  return std::ranges::any_of(in_map->replicas, [&](const map_replica& replica) {
    return replica.slot == slot && state.published->nodes[replica.node].name == node;
  });
}

void pass(cluster_state& state) {
  if (!state.term_durable || state.stopping) return;
  bool planned = may_place(state);
  if (planned) plan(state);
  revive(state);  // before anything is freed
  for (auto& [name, node] : state.nodes) {
    if (!is_member(node)) continue;
    std::vector<slot_index> slots;
    for (const auto& [slot, entry] : node.slots) slots.push_back(slot);
    for (auto slot : slots) {
      leave_old_version(state, name, node, slot);
      advance_slot(state, name, node, slot);
    }
    ask_for_inventory(state, name, node);
    finish_drain(state, name, node);
  }
  settle(state);
  if (planned) operations::advance(state);
}

}  // namespace troupe::coordinator::reconciler
