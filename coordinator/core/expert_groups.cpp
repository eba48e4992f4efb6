#include "coordinator/core/expert_groups.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <utility>

namespace troupe::coordinator {

expert_groups::expert_groups(const planner_input& input)
    : group_of_(input.experts.size(), none), alone_(input.experts.size()) {
  std::iota(alone_.begin(), alone_.end(), 0U);
  std::map<std::string, std::uint32_t> zones;
  std::uint32_t accepting = 0;
  for (const auto& node : input.nodes) {
    zone_of_.push_back(zones.try_emplace(node.zone, static_cast<std::uint32_t>(zones.size())).first->second);
    accepting += node.accepts && node.slots > 0 ? 1 : 0;
  }
  std::map<std::pair<layer_id, std::uint32_t>, std::uint32_t> numbers;
  std::map<layer_id, std::uint32_t> groups_of_layer;
  for (std::uint32_t e = 0; e < input.experts.size(); ++e) {
    const auto& expert = input.experts[e];
    if (!expert.group) continue;
    const auto number = static_cast<std::uint32_t>(groups_.size());
    const auto [at, is_new] = numbers.try_emplace({expert.id.layer, *expert.group}, number);
    if (is_new) {
      groups_.push_back({{}, 0, std::vector<int>(input.nodes.size()), std::vector<int>(zones.size())});
      ++groups_of_layer[expert.id.layer];
    }
    group_of_[e] = at->second;
    groups_[at->second].experts.push_back(e);
  }
  for (auto& g : groups_) {
    const auto size = static_cast<std::uint32_t>(g.experts.size());
    const auto copies = groups_of_layer.at(input.experts[g.experts.front()].id.layer) * std::max(input.replication, 1U);
    const auto nodes = std::max(accepting / copies, 1U);  // that there are for one copy of the group
    g.share = (size + nodes - 1) / nodes;
  }
}

void expert_groups::count(std::uint32_t e, std::uint32_t n, bool comes, bool chosen) {
  if (group_of_[e] == none || chosen) return;
  auto& g = groups_[group_of_[e]];
  g.held[n] += comes ? 1 : -1;
  g.held_in_zone[zone_of_[n]] += comes ? 1 : -1;
}

std::span<const std::uint32_t> expert_groups::mates(std::uint32_t e) const {
  if (const auto* g = find(e)) return g->experts;
  return {&alone_[e], 1};
}

int expert_groups::held(std::uint32_t e, std::uint32_t n) const {
  const auto* g = find(e);
  return g != nullptr ? g->held[n] : 0;
}

bool expert_groups::takes(std::uint32_t e, std::uint32_t n, std::size_t more) const {
  const auto* g = find(e);
  return g == nullptr || static_cast<std::size_t>(g->held[n]) + more <= g->share;
}

int expert_groups::distance(std::uint32_t e, std::uint32_t n) const {
  const auto* g = find(e);
  if (g == nullptr) return 0;
  if (!takes(e, n, 1)) return 3;
  if (g->held[n] > 0) return 0;
  return g->held_in_zone[zone_of_[n]] > 0 ? 1 : 2;
}

bool expert_groups::lacks_room(std::uint32_t e, std::uint32_t n, std::uint32_t room) const {
  const auto* g = find(e);
  return g != nullptr && g->held[n] == 0 && room < g->share;
}

std::size_t expert_groups::leaving(std::uint32_t e, std::size_t held) const {
  const auto* g = find(e);
  return g == nullptr || held <= g->share ? held : std::min<std::size_t>(held - g->share, g->share);
}

}  // namespace troupe::coordinator
