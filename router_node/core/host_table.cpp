#include "router_node/core/host_table.hpp"

#include <algorithm>
#include <set>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {

host_index host_table::index_of(const node_id& name) {
  auto [at, is_new] = by_name_.emplace(name, static_cast<host_index>(hosts_.size()));
  if (is_new) hosts_.push_back(host{.name = name});
  return at->second;
}

void host_table::set_map(std::shared_ptr<const cluster_map> map) {
  std::set<std::uint32_t> changed;
  for (const auto& expert : map->experts) {
    const auto* before = map_ ? map_->find(expert.id) : nullptr;
    if (before != nullptr && before->version != expert.version) changed.insert(expert.id.layer.value);
  }
  for (const auto layer : changed) ++weights_[layer];
  map_ = std::move(map);
  by_map_index_.clear();
  for (auto& h : hosts_) h.expected.reset();
  for (const auto& node : map_->nodes) {
    const auto index = index_of(node.name);
    by_map_index_.push_back(index);
    if (node.state != node_state::lost) hosts_[index].expected = node.incarnation;
  }
  masks_.clear();
  for (const auto& expert : map_->experts) {
    if (expert.masked) masks_.try_emplace(expert.id.layer.value, map_->gate_mask(expert.id.layer));
  }
}

const std::vector<std::uint8_t>& host_table::gate_mask(layer_id layer) const {
  static const std::vector<std::uint8_t> none;
  const auto at = masks_.find(layer.value);
  return at == masks_.end() ? none : at->second;
}

std::uint64_t host_table::weights_of(layer_id layer) const {
  const auto at = weights_.find(layer.value);
  return at == weights_.end() ? 0 : at->second;
}

host_index host_table::set_link(const node_id& name, link_state link) {
  const auto index = index_of(name);
  auto& h = hosts_[index];
  h.link = std::move(link);
  ++h.link_generation;
  h.suspect_until.reset();
  return index;
}

std::optional<host_index> host_table::find(const node_id& name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? std::nullopt : std::optional(at->second);
}

const map_expert* host_table::find_expert(const expert_id& expert) const {
  // Maps list every expert of a layer, so that the place is the index; a search serves maps with holes.
  const auto layer = map_->layer(expert.layer);
  if (expert.index < layer.size() && layer[expert.index].id == expert) return &layer[expert.index];
  return map_->find(expert);
}

void host_table::note_unusable(nobody& why, const host& h) {
  if (const auto* connecting = std::get_if<link_connecting>(&h.link)) {
    const auto until = connecting->since + limits::connect_timeout;
    why.connecting_until = why.connecting_until ? std::max(*why.connecting_until, until) : until;
    why.reason = fmt::format("connecting to {}", h.name.value);
  } else if (const auto* down = std::get_if<link_down>(&h.link)) {
    why.reason = fmt::format("{} is down: {}", h.name.value, down->reason);
  } else {
    why.reason = fmt::format("{} was restarted or lost", h.name.value);
  }
}

candidate host_table::choose(std::span<const candidate> candidates, std::span<const std::uint64_t> more, time_point now,
                             std::mt19937_64& random) const {
  if (candidates.size() == 1) return candidates.front();
  const auto is_last = [&](const candidate& c) { return is_last_choice(c.host, now); };
  const auto load = [&](const candidate& c) {
    const auto& h = hosts_[c.host];
    const auto rows = 1 + h.rows_in_flight + (c.host < more.size() ? more[c.host] : 0);
    return static_cast<double>(rows) * h.slowness;
  };
  std::uniform_int_distribution<std::size_t> first(0, candidates.size() - 1);
  std::uniform_int_distribution<std::size_t> second(0, candidates.size() - 2);
  const auto a = first(random);
  auto b = second(random);
  if (b >= a) ++b;
  if (is_last(candidates[a]) && is_last(candidates[b])) {
    const auto better = std::ranges::find_if_not(candidates, is_last);
    if (better != candidates.end()) return *better;
  }
  if (is_last(candidates[a]) != is_last(candidates[b])) return candidates[is_last(candidates[a]) ? b : a];
  return candidates[load(candidates[a]) <= load(candidates[b]) ? a : b];
}

}  // namespace troupe::router
