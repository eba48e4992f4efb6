#include "coordinator/core/versions.hpp"

#include <algorithm>

namespace troupe::coordinator::versions {
namespace {

// Are all replicas that are wanted there?
bool is_complete(const cluster_state& state, const expert_entry& expert) {
  if (!is_present(expert)) return true;
  if (expert.wanted.size() < replicas_to_flip(state, expert)) return false;
  return std::ranges::all_of(expert.wanted, [&](const node_id& name) {
    auto at = state.nodes.find(name);
    if (at == state.nodes.end() || !is_serving(at->second)) return false;
    return std::ranges::any_of(at->second.slots, [&](const auto& item) {
      const auto& entry = item.second;
      return entry.expert == expert.id && entry.version == expert.wish.version &&
             std::holds_alternative<slot_ready>(entry.life);
    });
  });
}

}  // namespace

std::optional<sha256_digest> digest_of(const expert_entry& expert, weights_version version) {
  if (version == expert.version && expert.digest) return expert.digest;
  return version == expert.wish.version ? expert.wish.digest : std::nullopt;
}

bool is_current(const expert_entry& expert, weights_version version) {
  return version == expert.version || version == expert.wish.version;
}

std::string folder_of(const cluster_state& state, weights_version version) {
  auto at = state.sources.find(version);
  return at == state.sources.end() ? std::string() : at->second.folder;
}

weights_version next(const cluster_state& state) {
  return {state.sources.empty() ? 2 : state.sources.rbegin()->first.value + 1};
}

std::size_t replicas_to_flip(const cluster_state& state, const expert_entry& expert) {
  if (!is_present(expert)) return 0;
  const auto* served = state.published->find(expert.id);
  std::size_t serving = served == nullptr ? 0 : served->replicas.size();
  return std::max<std::size_t>(std::min<std::size_t>(serving, wanted_replicas(state, expert)), 1);
}

std::set<layer_id> layers_to_flip(const cluster_state& state) {
  std::set<layer_id> ready;
  std::set<layer_id> waiting;
  for (const auto& expert : state.experts) {
    if (expert.wish.version == expert.version) continue;
    (is_complete(state, expert) ? ready : waiting).insert(expert.id.layer);
  }
  for (auto layer : waiting) ready.erase(layer);
  return ready;
}

}  // namespace troupe::coordinator::versions
