#include "coordinator/core/publisher.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/placement_reasons.hpp"
#include "coordinator/core/versions.hpp"

namespace troupe::coordinator::publisher {
namespace {

map_node to_map_node(const node_id& name, const node_entry& node) {
  auto state = node.is_draining() ? node_state::draining : node_state::serving;
  return {name,
          node.facts.role,
          state,
          node.incarnation,
          node.facts.data_address,
          node.facts.public_key,
          node.facts.machine_id};
}

expert_state shown_in_map(const expert_entry& expert, bool has_replicas) {
  switch (expert.wish.presence) {
    case expert_presence::pruned:
      return has_replicas ? expert_state::draining : expert_state::pruned;
    case expert_presence::dormant:
      return has_replicas ? expert_state::draining : expert_state::dormant;
    case expert_presence::active:
      break;
  }
  if (has_replicas) return expert_state::active;
  return expert.wanted.empty() ? expert_state::dormant : expert_state::warming;
}

// Every serving expert node, and every replica on one that is verified.
cluster_map candidate(const cluster_state& state) {
  cluster_map map{state.term, {}, state.settings.cluster_id, state.settings.model_fingerprint, {}, {}};
  map.experts.reserve(state.experts.size());
  const auto flipping = versions::layers_to_flip(state);
  for (const auto& expert : state.experts) {
    auto version = flipping.contains(expert.id.layer) ? expert.wish.version : expert.version;
    map.experts.push_back({expert.id, expert_state::dormant, version, versions::digest_of(expert, version), {}});
  }
  for (const auto& [name, node] : state.nodes) {
    if (!node.is_expert() || !is_serving(node)) continue;
    auto index = static_cast<std::uint32_t>(map.nodes.size());
    map.nodes.push_back(to_map_node(name, node));
    for (const auto& [slot, entry] : node.slots) {
      bool usable = std::holds_alternative<slot_ready>(entry.life) || std::holds_alternative<slot_presumed>(entry.life);
      if (!usable) continue;
      auto at = std::ranges::lower_bound(map.experts, entry.expert, {}, &map_expert::id);
      if (entry.version == at->version) at->replicas.push_back({index, slot, entry.version});
    }
  }
  for (std::size_t e = 0; e < map.experts.size(); ++e) {
    auto& expert = map.experts[e];
    const auto& entry = state.experts[e];
    const auto* before = state.published->find(expert.id);
    // Restored or added: not chosen before it can be served.
    bool not_back = before != nullptr && before->masked && expert.replicas.empty();
    expert.masked = !is_present(entry) || not_back;
    expert.state = shown_in_map(entry, !expert.replicas.empty());
  }
  return map;
}

bool same_content(const cluster_map& a, const cluster_map& b) { return a.nodes == b.nodes && a.experts == b.experts; }

expert_record to_record(const map_expert& expert, const std::vector<map_node>& nodes) {
  expert_record record{expert.id, expert.state, expert.version, expert.digest, {}, expert.masked};
  for (const auto& replica : expert.replicas) {
    record.replicas.push_back({nodes[replica.node].name, replica.slot, replica.version});
  }
  return record;
}

std::map<node_id, node_record> wanted_node_records(const cluster_state& state, const cluster_map& map) {
  std::map<node_id, node_record> records;
  for (const auto& [name, node] : state.nodes) {
    const auto* named = map.find(name);
    auto in_map = named != nullptr ? std::optional(named->state) : std::nullopt;
    if (!in_map && !node.is_draining() && !node.removed) continue;
    records.emplace(name, node_record{name, node.incarnation, node.facts, in_map, node.is_draining(),
                                      node.drain ? node.drain->id : "", node.removed});
  }
  return records;
}

std::vector<store_record> changed_records(const cluster_state& state, const cluster_map& map) {
  std::vector<store_record> changed;
  auto nodes = wanted_node_records(state, map);
  for (const auto& [name, node] : nodes) {
    auto at = state.durable_nodes.find(name);
    if (at == state.durable_nodes.end() || !(at->second == node)) changed.emplace_back(node);
  }
  for (const auto& [name, node] : state.durable_nodes) {
    if (!nodes.contains(name)) changed.emplace_back(node_erased{name});
  }
  for (std::size_t e = 0; e < map.experts.size(); ++e) {
    auto expert = to_record(map.experts[e], map.nodes);
    if (!(expert == state.durable_experts[e])) changed.emplace_back(std::move(expert));
  }
  return changed;
}

// What the next map changes, for people and to come back.
epoch_record record_of(const cluster_state& state, const cluster_map& next) {
  const auto& before = *state.published;
  std::vector<expert_record> was;
  for (const auto& expert : before.experts) {
    auto old = to_record(expert, before.nodes);
    const auto* now = next.find(expert.id);
    if (now == nullptr || !(to_record(*now, next.nodes) == old)) was.push_back(std::move(old));
  }
  return {placement_reasons::describe(state, before, next), std::move(was)};
}

// A command that is being written knows more than the state does.
bool is_writing_operations(const cluster_state& state) {
  const auto any = [](const auto&) { return true; };
  return find_in_flight<wish_record>(state, any) != nullptr || find_in_flight<operation_record>(state, any) != nullptr;
}

std::vector<recipient> all_members(cluster_state& state) {
  std::vector<recipient> to;
  for (auto& [name, node] : state.nodes) {
    if (!is_member(node)) continue;
    node.map_sent = state.now;
    to.push_back({node.peer, name});
  }
  return to;
}

bool is_behind(const cluster_state& state, const node_entry& node) {
  if (node.facts.role == node_role::router) {
    return node.acked_term != state.term || node.acked_epoch < state.published->epoch;
  }
  return !node.map_sent || node.heard_epoch < state.published->epoch;
}

void repeat_to_laggards(cluster_state& state) {
  if (state.published->epoch.value == 0) return;
  publication again{state.published, {}};
  for (auto& [name, node] : state.nodes) {
    if (!is_member(node) || !is_behind(state, node)) continue;
    if (node.map_sent && state.now - *node.map_sent < limits::map_ack_timeout) continue;
    node.map_sent = state.now;
    again.to.push_back({node.peer, name});
  }
  if (!again.to.empty()) state.out.published = std::move(again);
}

// Replicas that were taken out of use and are not named by this map: from now on acknowledgements of it count.
void stamp_retiring(cluster_state& state, epoch_number epoch) {
  for (auto& [name, node] : state.nodes) {
    for (auto& [slot, entry] : node.slots) {
      auto* retiring = std::get_if<slot_retiring>(&entry.life);
      if (retiring != nullptr && retiring->epoch.value == 0) retiring->epoch = epoch;
    }
  }
}

void update_experts(cluster_state& state, const cluster_map& map) {
  versions::tell_differences(state, map);
  for (std::size_t e = 0; e < state.experts.size(); ++e) {
    auto& expert = state.experts[e];
    if (expert.version != map.experts[e].version) {
      expert.version = map.experts[e].version;
      expert.digest = map.experts[e].digest;
    }
    switch (map.experts[e].state) {
      case expert_state::active:
        expert.life = expert_active{static_cast<std::uint32_t>(map.experts[e].replicas.size())};
        break;
      case expert_state::warming:
        expert.life = expert_warming{};
        break;
      case expert_state::draining:
        expert.life = expert_draining{};
        break;
      case expert_state::pruned:
        expert.life = expert_pruned{};
        break;
      case expert_state::dormant:
        if (!is_present(expert)) {
          expert.life = expert_dormant{"not added yet"};
          break;
        }
        expert.life = expert_dormant{!expert.last_failure.empty() ? expert.last_failure
                                     : state.placed               ? "no node has room for it"
                                                                  : "not placed yet"};
    }
  }
}

}  // namespace

// Maps and what belongs to them are written one after the other: the next one starts from what the disk holds.
bool is_writing_map(const cluster_state& state) {
  return std::ranges::any_of(state.in_flight, [](const auto& item) {
    return std::ranges::any_of(item.second, [](const auto& part) { return part.map != nullptr; });
  });
}

void pass(cluster_state& state) {
  if (!state.term_durable || state.stopping || is_writing_map(state)) return;
  auto next = candidate(state);
  if (same_content(next, *state.published)) stamp_retiring(state, state.published->epoch);
  bool writable = !state.alarm || state.now >= state.store_retry_at;
  bool changed = !same_content(next, *state.published);
  bool gathered = state.now - state.last_published >= limits::publish_interval;
  auto records = changed_records(state, next);
  bool rewrites = state.rewrite_operations && !is_writing_operations(state);
  bool due = (changed && gathered) || (!changed && !records.empty()) || state.alarm || rewrites;
  if (!writable || !due) {
    if (changed || !records.empty()) state.dirty = true;  // not forgotten
    return repeat_to_laggards(state);
  }
  next.epoch = {state.published->epoch.value + (changed ? 1U : 0U)};
  if (changed) stamp_retiring(state, next.epoch);
  records.emplace_back(state.record(next.epoch));
  if (changed) records.emplace_back(record_of(state, next));
  auto map = std::make_shared<const cluster_map>(std::move(next));
  persist_in_flight then;
  then.map = map;
  then.rewrites_operations = rewrites;
  if (rewrites) std::ranges::move(operations::all_records(state), std::back_inserter(records));
  state.persist(std::move(records), std::move(then));
  if (!changed) return repeat_to_laggards(state);
  state.out.published = publication{map, all_members(state)};
  state.tell(severity::info, "map_published", fmt::format("epoch {}", map->epoch.value),
             fmt::format("epoch {} with {} nodes", map->epoch.value, map->nodes.size()));
}

void acknowledged(cluster_state& state, const map_acknowledged& ack) {
  auto* node = state.find_member(ack.node, ack.incarnation);
  if (node == nullptr) return;
  auto uses_since = std::max(node->uses_since, ack.uses_since.value == 0 ? ack.epoch : ack.uses_since);
  if (node->uses_since != uses_since) {
    node->uses_since = uses_since;
    state.dirty = true;
  }
  if (std::pair(ack.term, ack.epoch) <= std::pair(node->acked_term, node->acked_epoch)) return;
  node->acked_term = ack.term;
  node->acked_epoch = ack.epoch;
  state.last_acked = state.now;
  state.dirty = true;
}

void committed(cluster_state& state, const persist_in_flight& done) {
  for (const auto& item : done.records) {
    std::visit(overloaded{
                   [&](const node_record& r) { state.durable_nodes[r.node] = r; },
                   [&](const node_erased& r) { state.durable_nodes.erase(r.node); },
                   [&](const expert_record& r) {
                     auto at = std::ranges::lower_bound(state.experts, r.expert, {}, &expert_entry::id);
                     state.durable_experts[static_cast<std::size_t>(at - state.experts.begin())] = r;
                   },
                   [&](const epoch_record& r) { state.history.add(r.what, done.map); },
                   [](const auto&) {},
               },
               item);
  }
  if (!done.map) return;
  if (state.published->epoch < done.map->epoch) state.last_published = state.now;
  state.published = done.map;
  update_experts(state, *done.map);
  state.dirty = true;
}

namespace {

// Names are all that is known of the nodes of an earlier map.
cluster_map earlier_map(const cluster_map& after, const placement_epoch& what, const std::vector<expert_record>& was) {
  cluster_map map{what.term,   {what.epoch.value - 1}, after.cluster_id, after.model_fingerprint,
                  after.nodes, after.experts};
  std::map<node_id, std::uint32_t> index;
  for (std::uint32_t n = 0; n < map.nodes.size(); ++n) index.emplace(map.nodes[n].name, n);
  for (const auto& record : was) {
    auto at = std::ranges::lower_bound(map.experts, record.expert, {}, &map_expert::id);
    if (at == map.experts.end() || at->id != record.expert) continue;
    *at = {record.expert, record.state, record.version, record.digest, {}, record.masked};
    for (const auto& replica : record.replicas) {
      auto [node, is_new] = index.try_emplace(replica.node, static_cast<std::uint32_t>(map.nodes.size()));
      if (is_new) map.nodes.push_back({replica.node, node_role::expert, node_state::lost, {}, "", "", ""});
      at->replicas.push_back({node->second, replica.slot, replica.version});
    }
  }
  return map;
}

}  // namespace

void restore_history(cluster_state& state, const std::vector<epoch_record>& epochs) {
  std::vector<std::shared_ptr<const cluster_map>> maps(epochs.size());  // of the epochs, as far as they lead back
  auto known = state.published;
  for (auto e = epochs.size(); e > 0; --e) {
    const auto& [what, before] = epochs[e - 1];
    if (known == nullptr || known->epoch != what.epoch) break;
    maps[e - 1] = known;
    bool leads_back = before && epochs.size() - e + 1 < placement_history::maps_max;
    known = leads_back ? std::make_shared<const cluster_map>(earlier_map(*known, what, *before)) : nullptr;
  }
  for (std::size_t e = 0; e < epochs.size(); ++e) state.history.add(epochs[e].what, maps[e]);
}

cluster_map map_of(const durable_state& durable, const cluster_settings& settings, term_number term) {
  cluster_map map{term, {}, settings.cluster_id, settings.model_fingerprint, {}, {}};
  if (durable.cluster) map.epoch = durable.cluster->epoch;
  std::map<node_id, std::uint32_t> index;
  auto nodes = durable.nodes;
  std::ranges::sort(nodes, {}, &node_record::node);
  for (const auto& node : nodes) {
    if (!node.in_map) continue;
    index.emplace(node.node, static_cast<std::uint32_t>(map.nodes.size()));
    map.nodes.push_back({node.node, node.facts.role, *node.in_map, node.incarnation, node.facts.data_address,
                         node.facts.public_key, node.facts.machine_id});
  }
  for (const auto& record : durable.experts) {
    map_expert expert{record.expert, record.state, record.version, record.digest, {}, record.masked};
    for (const auto& replica : record.replicas) {
      if (auto at = index.find(replica.node); at != index.end()) {
        expert.replicas.push_back({at->second, replica.slot, replica.version});
      }
    }
    std::ranges::sort(expert.replicas, {}, [](const auto& r) { return std::pair(r.node, r.slot); });
    map.experts.push_back(std::move(expert));
  }
  std::ranges::sort(map.experts, {}, &map_expert::id);
  return map;
}

}  // namespace troupe::coordinator::publisher
