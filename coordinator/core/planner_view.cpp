#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "common/limits.hpp"
#include "coordinator/core/reconciler.hpp"

// What the placement planner is told of the cluster.
namespace troupe::coordinator::reconciler {
namespace {

// Where an operator wants it; of an expert that gets another version, where it is.
std::vector<node_id> places_to_choose(const cluster_state& state, const expert_entry& expert, const expert_wish& wish) {
  auto places = wish.nodes;
  if (wish.version == expert.version) return places;
  for (const auto& name : places_of(state, expert.id)) {
    if (std::ranges::find(places, name) == places.end()) places.push_back(name);
  }
  return places;
}

std::optional<std::uint32_t> group_of(const cluster_state& state, const expert_id& expert) {
  const auto gate = state.settings.gates.find(expert.layer);
  if (gate == state.settings.gates.end() || gate->second.num_groups < 2) return std::nullopt;
  return expert.index / (gate->second.num_experts / gate->second.num_groups);
}

// As state.experts; nullopt: the model has no such expert.
std::optional<std::size_t> index_of(const cluster_state& state, const expert_id& id) {
  auto at = std::ranges::lower_bound(state.experts, id, {}, &expert_entry::id);
  if (at == state.experts.end() || at->id != id) return std::nullopt;
  return static_cast<std::size_t>(at - state.experts.begin());
}

using node_index = std::map<node_id, std::uint32_t>;

void add_replicas(const cluster_state& state, const node_index& index, std::span<const expert_wish* const> wishes,
                  planner_input& view) {
  for (const auto& [name, n] : index) {
    const auto& node = state.nodes.at(name);
    for (const auto& [slot, entry] : node.slots) {
      const auto e = index_of(state, entry.expert);
      if (!e || !is_replica(entry)) continue;
      // What is served until the layer goes over only takes up its slot.
      if (entry.version != wishes[*e]->version) continue;
      planner_replica replica{n, !is_any<slot_ordered, slot_loading>(entry), is_any<slot_retiring>(entry), {}};
      if (entry.replaces) {
        if (auto at = index.find(*entry.replaces); at != index.end()) replica.replaces = at->second;
      }
      view.experts[*e].replicas.push_back(replica);
    }
    for (const auto& [id, failure] : node.failures) {
      const auto e = index_of(state, id);
      if (e && failure.not_before > state.now) view.experts[*e].avoid.push_back(n);
    }
  }
}

}  // namespace

planner_input planner_view(const cluster_state& state, std::span<const wish_record> as_if) {
  planner_input view;
  view.replication = state.settings.replication;
  view.balance_moves_max = limits::balance_moves_max;
  // It would answer to a state that is about to change, and moves could cross.
  view.balance = std::ranges::none_of(state.operations, [](const auto& item) {
    return item.second.state == operation_state::running && item.second.kind != operation_kind::drain;
  });
  std::vector<const expert_wish*> wishes;
  wishes.reserve(state.experts.size());
  for (const auto& expert : state.experts) wishes.push_back(&expert.wish);
  for (const auto& other : as_if) {
    if (auto e = index_of(state, other.expert)) wishes[*e] = &other.wish;
  }
  view.experts.reserve(state.experts.size());
  for (std::size_t e = 0; e < state.experts.size(); ++e) {
    const auto& id = state.experts[e].id;
    bool takes_part = wishes[e]->presence == expert_presence::active;
    auto count = takes_part ? wishes[e]->replicas : std::optional(0U);
    view.experts.push_back({id, 1.0, {}, {}, count, {}, group_of(state, id)});
  }
  node_index index;
  for (const auto& [name, node] : state.nodes) {
    if (!node.is_expert() || !is_serving(node)) continue;
    index.emplace(name, static_cast<std::uint32_t>(view.nodes.size()));
    bool takes_work = std::holds_alternative<node_serving>(node.life);
    auto total = node.facts.slots_total;
    auto used = static_cast<std::uint32_t>(std::min<std::size_t>(node.slots.size(), total));
    view.nodes.push_back({name, node.facts.zone, total, takes_work ? total - used : 0, !node.is_draining()});
  }
  for (std::size_t e = 0; e < state.experts.size(); ++e) {
    for (const auto& name : places_to_choose(state, state.experts[e], *wishes[e])) {
      if (auto at = index.find(name); at != index.end()) view.experts[e].chosen.push_back(at->second);
    }
  }
  add_replicas(state, index, wishes, view);
  return view;
}

}  // namespace troupe::coordinator::reconciler
