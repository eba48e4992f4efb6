#include "coordinator/core/cluster_state.hpp"

#include <algorithm>

namespace troupe::coordinator {

cluster_state::cluster_state(cluster_settings s)
    : settings(std::move(s)), long_traffic(settings.policies.prune_window), long_norms(settings.policies.prune_window) {
  std::ranges::sort(settings.experts, {}, &expert_spec::id);
  for (const auto& spec : settings.experts) {
    expert_entry expert;
    expert.id = spec.id;
    expert.bundle_bytes = spec.bundle_bytes;
    expert.life = expert_dormant{"not placed yet"};
    experts.push_back(std::move(expert));
  }
  durable_experts.resize(experts.size());
}

std::int64_t unix_ms(const cluster_state& state) {
  auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(state.now - state.started);
  return state.settings.started_unix_ms + passed.count();
}

const expert_entry* cluster_state::find(const expert_id& id) const {
  auto at = std::ranges::lower_bound(experts, id, {}, &expert_entry::id);
  return at != experts.end() && at->id == id ? &*at : nullptr;
}

expert_entry* cluster_state::find(const expert_id& id) {
  return const_cast<expert_entry*>(std::as_const(*this).find(id));
}

node_entry* cluster_state::find(const node_id& name) {
  auto at = nodes.find(name);
  return at == nodes.end() ? nullptr : &at->second;
}

node_entry* cluster_state::find_member(const node_id& name, incarnation_number incarnation) {
  auto* node = find(name);
  return node != nullptr && node->incarnation == incarnation && is_member(*node) ? node : nullptr;
}

void cluster_state::forget_reports(const node_id& name) {
  traffic.forget(name);
  pairs.forget(name);
}

void cluster_state::tell(severity level, std::string kind, std::string object, std::string text) {
  out.events.push_back({level, std::move(kind), std::move(object), std::move(text)});
}

cluster_record cluster_state::record(epoch_number epoch) const {
  return {settings.cluster_id, settings.model_fingerprint, term, epoch, first_started_unix_ms};
}

void cluster_state::persist(std::vector<store_record> records, persist_in_flight then) {
  if (out.persist.empty()) out.ticket = ++last_ticket;
  then.records = records;
  std::ranges::move(records, std::back_inserter(out.persist));
  in_flight[out.ticket].push_back(std::move(then));
}

std::string_view shown_state(const expert_entry& expert) {
  return std::visit(overloaded{
                        [](const expert_dormant&) { return "dormant"; },
                        [](const expert_warming&) { return "warming"; },
                        [](const expert_active&) { return "active"; },
                        [](const expert_draining&) { return "draining"; },
                        [](const expert_pruned&) { return "pruned"; },
                    },
                    expert.life);
}

bool is_masked(const cluster_state& state, const expert_id& expert) {
  const auto* in_map = state.published->find(expert);
  return in_map != nullptr && in_map->masked;
}

std::string names(const std::vector<node_id>& nodes) {
  std::string text;
  for (const auto& node : nodes) text += (text.empty() ? "" : ", ") + node.value;
  return text.empty() ? "no node" : text;
}

std::vector<node_id> places_of(const cluster_state& state, const expert_id& expert) {
  std::vector<node_id> places;
  const auto* published = state.published->find(expert);
  if (published == nullptr) return places;
  for (const auto& replica : published->replicas) places.push_back(state.published->nodes[replica.node].name);
  return places;
}

std::uint32_t wanted_replicas(const cluster_state& state, const expert_entry& expert) {
  if (!is_present(expert)) return 0;
  return expert.wish.replicas.value_or(state.settings.replication);
}

bool is_serving(const node_entry& node) {
  return !node.removed &&
         (std::holds_alternative<node_serving>(node.life) || std::holds_alternative<node_suspect>(node.life) ||
          std::holds_alternative<node_expected>(node.life));
}

bool takes_work(const node_entry& node) {
  return node.is_expert() && std::holds_alternative<node_serving>(node.life) && !node.removed && !node.is_draining();
}

bool is_member(const node_entry& node) {
  return !node.removed && !node.peer.empty() && !std::holds_alternative<node_lost>(node.life);
}

node_state shown_state(const node_entry& node) {
  return std::visit(
      overloaded{
          [](const node_expected&) { return node_state::joining; },
          [](const node_joining&) { return node_state::joining; },
          [&](const node_serving&) { return node.is_draining() ? node_state::draining : node_state::serving; },
          [&](const node_suspect&) { return node.is_draining() ? node_state::draining : node_state::serving; },
          [](const node_quarantined&) { return node_state::quarantined; },
          [](const node_lost&) { return node_state::lost; },
      },
      node.life);
}

}  // namespace troupe::coordinator
