#include "cli/simulation/policy_layers.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "bench/planner/placement.hpp"
#include "coordinator/core/load_planner.hpp"

namespace troupe::cli {
namespace {

using coordinator::no_expert;
using coordinator::policy_input;
using coordinator::proposal;

const node_id everywhere{"all"};

expert_id id_of(std::size_t layer, std::size_t expert) {
  return {{static_cast<std::uint32_t>(layer)}, static_cast<std::uint32_t>(expert)};
}

node_id name_of(std::uint32_t node) { return {std::to_string(node)}; }
std::uint32_t number_of(const node_id& name) { return static_cast<std::uint32_t>(std::stoul(name.value)); }

std::uint64_t rows_of(double load) { return static_cast<std::uint64_t>(std::llround(std::min(load, 1e15))); }

// Calls `see(node, slots of it)` for nodes that are there.
template <class Placement, class See>
void each_node(Placement& held, const present_nodes& nodes, See see) {
  auto slot = held.begin();
  for (std::uint32_t n = 0; n < nodes.all_slots().size(); ++n) {
    const auto end = slot + nodes.all_slots()[n];
    if (nodes.is_there(n)) see(n, std::ranges::subrange(slot, end));
    slot = end;
  }
}

}  // namespace

double apply_mask(std::vector<double>& loads, const std::vector<bool>& mask) {
  if (mask.empty()) return 0;
  double total = 0, chosen = 0;
  for (std::size_t e = 0; e < loads.size(); ++e) {
    total += loads[e];
    chosen += mask[e] ? loads[e] : 0;
  }
  const auto num_chosen = static_cast<double>(std::ranges::count(mask, true));
  for (std::size_t e = 0; e < loads.size(); ++e) {
    if (!mask[e]) {
      loads[e] = 0;
    } else {
      loads[e] = chosen > 0 ? loads[e] * (total / chosen) : total / num_chosen;
    }
  }
  return total > 0 ? 1 - chosen / total : 0;
}

policy_layers::policy_layers(const std::vector<std::uint32_t>& experts, const simulated_policies& settings)
    : placement_maker{experts.size()}, settings_{settings}, long_traffic_{settings.policies.prune_window} {
  for (std::size_t l = 0; l < experts.size(); ++l) {
    past_.emplace_back(experts[l]);
    masks_[l].assign(experts[l], true);
    const auto active = settings.active_experts == 0 ? experts[l] : std::min(settings.active_experts, experts[l]);
    std::fill(masks_[l].begin() + active, masks_[l].end(), false);
  }
}

void policy_layers::plan(std::uint32_t index, const step_loads& loads, const present_nodes& nodes) {
  now_ = time_point{} + index * std::chrono::minutes{settings_.step_minutes};
  shared_ = loads;
  for (std::size_t l = 0; l < loads.size(); ++l) {
    apply_mask(shared_[l], masks_[l]);
    watch(l, shared_[l]);
  }
  if (index == 0) {
    place_first(loads, nodes);
    return;
  }
  for (std::size_t l = 0; l < loads.size(); ++l) {
    held_[l] = nodes.without_absent(held_[l]);
    cover(l, nodes);
  }
  const auto looks = std::chrono::minutes{settings_.step_minutes} / limits::policy_interval;
  auto operations_left = looks * static_cast<std::int64_t>(limits::policy_operations_max);
  std::vector<bool> is_settled(loads.size());
  for (std::int64_t look = 0; look < looks; ++look) {
    for (std::size_t l = 0; l < loads.size() && operations_left > 0; ++l) {
      if (is_settled[l]) continue;
      is_settled[l] = !act(l, loads[l], nodes);
      operations_left -= is_settled[l] ? 0 : 1;
    }
  }
}

void policy_layers::place_first(const step_loads& loads, const present_nodes& nodes) {
  coordinator::load_planner planner{nodes.load_nodes(), {}};
  for (std::size_t l = 0; l < loads.size(); ++l) {
    if (settings_.active_experts == 0) {
      held_[l] = nodes.scatter(planner.plan(loads[l], {}).expert_of_slot);
    } else {
      place_few(l, nodes);
    }
  }
}

void policy_layers::place_few(std::size_t layer, const present_nodes& nodes) {
  held_[layer].assign(std::accumulate(nodes.all_slots().begin(), nodes.all_slots().end(), std::size_t{0}), no_expert);
  cover(layer, nodes);
}

void policy_layers::watch(std::size_t layer, const std::vector<double>& loads) {
  for (std::size_t e = 0; e < loads.size(); ++e) {
    auto& rows = past_[layer][e].rows;
    rows += rows_of(loads[e]);
    long_traffic_.report(everywhere, {}, id_of(layer, e), rows, now_);
  }
}

// Experts whose last node went away. Where no slot is free, one with several replicas gives one up.
void policy_layers::cover(std::size_t layer, const present_nodes& nodes) {
  std::vector<std::uint32_t> count(masks_[layer].size());
  for (auto e : held_[layer]) count[e == no_expert ? 0 : e] += e == no_expert ? 0 : 1;
  for (std::uint32_t e = 0; e < count.size(); ++e) {
    if (!masks_[layer][e] || count[e] > 0) continue;
    if (!add_replica(layer, e, nodes)) {
      const auto most = std::ranges::max_element(count);
      drop_replica(layer, static_cast<std::uint32_t>(most - count.begin()), nodes);
      --*most;
      add_replica(layer, e, nodes);
    }
    ++count[e];
  }
}

bool policy_layers::act(std::size_t layer, const std::vector<double>& loads, const present_nodes& nodes) {
  shared_[layer] = loads;
  apply_mask(shared_[layer], masks_[layer]);
  const auto made = propose(look(layer, loads, nodes));
  return made && std::visit([&](const auto& what) { return carry_out(layer, what, nodes); }, made->what);
}

std::optional<proposal> policy_layers::propose(const policy_input& input) const {
  const auto& settings = settings_.policies;
  std::vector<proposal> made;
  if (settings.adds) made = propose_additions(input, settings);
  if (made.empty() && settings.prunes) made = propose_returns(input, settings);
  if (made.empty() && settings.balances) made = propose_moves(input, settings);
  if (made.empty() && settings.prunes) made = propose_prunes(input, settings);
  if (made.empty()) return std::nullopt;
  return made.front();
}

policy_input policy_layers::look(std::size_t layer, const std::vector<double>& loads,
                                 const present_nodes& nodes) const {
  policy_input input;
  auto& seen = input.layers.emplace_back();
  seen.id = {static_cast<std::uint32_t>(layer)};
  const auto& mask = masks_[layer];
  const double total = std::accumulate(loads.begin(), loads.end(), 0.0);
  const double minutes = settings_.step_minutes;
  for (std::uint32_t e = 0; e < loads.size(); ++e) {
    auto& expert = seen.experts.emplace_back();
    const auto& past = past_[layer][e];
    expert.index = e;
    expert.is_present = mask[e];
    expert.is_dormant = !mask[e] && !past.is_pruned;
    expert.may_return = !mask[e] && past.is_pruned;
    expert.rows = rows_of(shared_[layer][e] / minutes);
    expert.masked_share = !mask[e] && total > 0 ? loads[e] / total : 0;
    expert.masked_rows = mask[e] ? 0 : rows_of(total / minutes);
    expert.long_rows = long_traffic_.of(id_of(layer, e), now_).rows_in_window;
    expert.was_watched = mask[e] && now_ - past.present_since >= settings_.policies.prune_window;
  }
  each_node(held_[layer], nodes, [&](std::uint32_t n, auto slots) {
    const auto free = static_cast<std::uint32_t>(std::ranges::count(slots, no_expert));
    for (auto e : slots) {
      if (e != no_expert) seen.experts[e].nodes.push_back(static_cast<std::uint32_t>(input.nodes.size()));
    }
    input.nodes.push_back({name_of(n), free, 0});
  });
  return input;
}

bool policy_layers::carry_out(std::size_t layer, const coordinator::change_presence& what, const present_nodes& nodes) {
  const auto e = what.expert.index;
  auto& mask = masks_[layer];
  auto& past = past_[layer][e];
  if (what.what == coordinator::change_presence::verb::prune) {
    if (std::ranges::count(mask, true) <= settings_.top_k) return false;
    mask[e] = false;
    past.is_pruned = true;
    std::ranges::replace(held_[layer], e, no_expert);
    return true;
  }
  if (!add_replica(layer, e, nodes)) return false;
  mask[e] = true;
  past.present_since = now_;
  return true;
}

bool policy_layers::carry_out(std::size_t layer, const coordinator::migrate_expert& what, const present_nodes& nodes) {
  if (!what.from || !add_replica_on(layer, what.expert.index, number_of(what.to), nodes)) return false;
  return drop_replica_on(layer, what.expert.index, number_of(*what.from), nodes);
}

// Experts that change places, which needs a free slot of any node for a moment.
bool policy_layers::carry_out(std::size_t layer, const coordinator::apply_placement& what, const present_nodes& nodes) {
  std::ptrdiff_t free = 0;
  each_node(held_[layer], nodes, [&](std::uint32_t, auto slots) { free += std::ranges::count(slots, no_expert); });
  if (free == 0) return false;
  for (const auto& placed : what.experts) std::ranges::replace(held_[layer], placed.expert.index, no_expert);
  bool is_done = true;
  for (const auto& placed : what.experts) {
    for (const auto& name : placed.nodes)
      is_done = add_replica_on(layer, placed.expert.index, number_of(name), nodes) && is_done;
  }
  return is_done;
}

bool policy_layers::carry_out(std::size_t layer, const coordinator::replicate_expert& what,
                              const present_nodes& nodes) {
  const auto e = what.expert.index;
  const auto count = static_cast<std::uint32_t>(std::ranges::count(held_[layer], e));
  return what.count > count ? add_replica(layer, e, nodes) : drop_replica(layer, e, nodes);
}

std::vector<double> policy_layers::node_loads(std::size_t layer, const present_nodes& nodes) const {
  return bench::node_loads(shared_[layer], held_[layer], nodes.all_slots());
}

bool policy_layers::add_replica(std::size_t layer, std::uint32_t expert, const present_nodes& nodes) {
  const auto load = node_loads(layer, nodes);
  std::optional<std::uint32_t> best;
  each_node(held_[layer], nodes, [&](std::uint32_t n, auto slots) {
    const bool has_room = std::ranges::count(slots, no_expert) > 0 && std::ranges::count(slots, expert) == 0;
    if (has_room && (!best || load[n] < load[*best])) best = n;
  });
  return best && add_replica_on(layer, expert, *best, nodes);
}

bool policy_layers::add_replica_on(std::size_t layer, std::uint32_t expert, std::uint32_t node,
                                   const present_nodes& nodes) {
  bool is_added = false;
  each_node(held_[layer], nodes, [&](std::uint32_t n, auto slots) {
    const auto free = std::ranges::find(slots, no_expert);
    if (n != node || free == slots.end() || std::ranges::count(slots, expert) > 0) return;
    *free = expert;
    is_added = true;
  });
  return is_added;
}

bool policy_layers::drop_replica(std::size_t layer, std::uint32_t expert, const present_nodes& nodes) {
  const auto load = node_loads(layer, nodes);
  std::optional<std::uint32_t> best;
  each_node(held_[layer], nodes, [&](std::uint32_t n, auto slots) {
    if (std::ranges::count(slots, expert) > 0 && (!best || load[n] > load[*best])) best = n;
  });
  return best && drop_replica_on(layer, expert, *best, nodes);
}

bool policy_layers::drop_replica_on(std::size_t layer, std::uint32_t expert, std::uint32_t node,
                                    const present_nodes& nodes) {
  bool is_dropped = false;
  each_node(held_[layer], nodes, [&](std::uint32_t n, auto slots) {
    const auto held = std::ranges::find(slots, expert);
    if (n != node || held == slots.end()) return;
    *held = no_expert;
    is_dropped = true;
  });
  return is_dropped;
}

}  // namespace troupe::cli
