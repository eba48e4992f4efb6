#include "router_node/core/host_table.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {

host_index host_table::index_of(const node_id& name) {
  auto [at, is_new] = by_name_.emplace(name, static_cast<host_index>(hosts_.size()));
  if (is_new) hosts_.push_back(host{.name = name});
  return at->second;
}

void host_table::set_map(std::shared_ptr<const cluster_map> map) {
  if (map_) {
    for (const auto layer : layers_of_other_versions(*map_, *map)) {
      hold(layer);
      ++weights_[layer.value];
    }
  }
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

// -- versions that are served no more -----------------------------------------------------------------------------

// As the current map has it, before another one takes its place.
void host_table::hold(layer_id layer) {
  auto& all = held_[layer.value];
  auto& now = all.emplace_back(held_layer{map_->epoch, weights_of(layer), {}});
  for (const auto& expert : map_->layer(layer)) {
    auto& kept = now.experts[expert.id.index];
    kept.version = expert.version;
    for (const auto& replica : expert.replicas) {
      kept.places.push_back({by_map_index_[replica.node], map_->nodes[replica.node].incarnation});
    }
  }
  if (all.size() > limits::held_versions_max) {
    for (auto& [index, expert] : all[all.size() - limits::held_versions_max - 1].experts) expert.places.clear();
  }
}

std::uint64_t host_table::weights_at(layer_id layer, epoch_number epoch) const {
  if (const auto all = held_.find(layer.value); all != held_.end()) {
    for (const auto& held : all->second) {
      if (held.last >= epoch) return held.weights;
    }
  }
  return weights_of(layer);
}

void host_table::release_versions(epoch_number before) {
  for (auto& [layer, all] : held_) {
    while (!all.empty() && all.front().last < before) all.pop_front();
  }
}

const held_layer* host_table::find_held(layer_id layer, std::uint64_t weights) const {
  const auto all = held_.find(layer.value);
  if (all == held_.end()) return nullptr;
  const auto at = std::ranges::find(all->second, weights, &held_layer::weights);
  return at == all->second.end() ? nullptr : &*at;
}

const held_layer::expert* host_table::find_held(const expert_id& expert, std::uint64_t weights) const {
  if (weights == weights_of(expert.layer)) return nullptr;
  const auto* then = find_held(expert.layer, weights);
  if (then == nullptr) return nullptr;
  const auto asked = then->experts.find(expert.index);
  if (asked == then->experts.end()) return nullptr;
  const auto* served = find_expert(expert);
  if (served != nullptr && served->version == asked->second.version) return nullptr;
  // Replicas moved while that version was still served.
  const auto& all = held_.at(expert.layer.value);
  for (auto held = all.rbegin(); held->weights != weights; ++held) {
    const auto later = held->experts.find(expert.index);
    if (later != held->experts.end() && later->second.version == asked->second.version) return &later->second;
  }
  return &asked->second;
}

bool host_table::is_gone(const expert_id& expert, std::uint64_t weights) const {
  const auto* held = find_held(expert, weights);
  return held != nullptr && std::ranges::none_of(held->places, [&](const held_layer::place& place) {
           return is_current(place.host, place.incarnation);
         });
}

void host_table::drop_held(const expert_id& expert, std::uint64_t weights, host_index index) {
  if (const auto* held = find_held(expert, weights)) {
    std::erase_if(const_cast<held_layer::expert*>(held)->places,
                  [&](const held_layer::place& place) { return place.host == index; });
  }
}

// -----------------------------------------------------------------------------------------------------------------

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
