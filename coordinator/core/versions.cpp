#include "coordinator/core/versions.hpp"

#include <algorithm>
#include <map>

#include <fmt/format.h>

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

// What nodes have found out about one layer that goes over.
struct layer_difference {
  std::uint32_t experts{};
  std::uint32_t compared{};
  std::uint64_t rows{};
  double sum{};  // over rows
  double largest{-1};
  expert_id most;

  void add(const expert_id& expert, const output_difference& found) {
    rows += found.rows;
    sum += found.mean * found.rows;
    if (found.largest > largest) {
      largest = found.largest;
      most = expert;
    }
  }
  [[nodiscard]] std::string text() const {
    if (rows == 0) return fmt::format("{} experts, and no rows were at hand to compare them on", experts);
    return fmt::format(
        "{} of {} experts compared with what they were on {} rows they were asked for; "
        "their outputs differ by {:.2g} of their norm on average, by {:.2g} at most (expert {})",
        compared, experts, rows, sum / static_cast<double>(rows), largest, to_string(most));
  }
};

}  // namespace

void tell_differences(cluster_state& state, const cluster_map& map) {
  std::map<layer_id, layer_difference> layers;
  for (std::size_t e = 0; e < state.experts.size(); ++e) {
    const auto& expert = state.experts[e];
    if (map.experts[e].version == expert.version) continue;
    auto& layer = layers[expert.id.layer];
    ++layer.experts;
    const auto rows_before = layer.rows;
    for (const auto& replica : map.experts[e].replicas) {
      const auto node = state.nodes.find(map.nodes[replica.node].name);
      if (node == state.nodes.end()) continue;
      const auto entry = node->second.slots.find(replica.slot);
      if (entry != node->second.slots.end() && entry->second.difference)
        layer.add(expert.id, *entry->second.difference);
    }
    layer.compared += layer.rows > rows_before ? 1 : 0;
  }
  for (const auto& [id, layer] : layers) {
    state.tell(severity::info, "refresh_compared", to_string(id),
               fmt::format("layer {} goes over to other weights: {}", to_string(id), layer.text()));
  }
}

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

std::vector<node_id> pinned_by(const cluster_state& state, const slot_entry& entry) {
  std::vector<node_id> routers;
  const auto* retiring = std::get_if<slot_retiring>(&entry.life);
  if (retiring == nullptr || retiring->epoch.value == 0 || entry.version == state.find(entry.expert)->version)
    return routers;
  for (const auto& [name, node] : state.nodes) {
    if (node.is_expert() || !is_member(node) || node.acked_epoch < retiring->epoch) continue;
    if (node.uses_since < retiring->epoch) routers.push_back(name);
  }
  return routers;
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
