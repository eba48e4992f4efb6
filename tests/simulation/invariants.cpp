// What must hold at every step of a simulated history, the faults that are injected, and what "at rest" means.
#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "tests/simulation/simulated_cluster.hpp"

namespace troupe::simulation {

// -- faults
// -------------------------------------------------------------------------------------------------------------

void simulated_cluster::inject() {
  auto any = [&] { return static_cast<std::size_t>(random_() % nodes_.size()); };
  if (is_due(faults_.node_crash_every)) {
    auto n = any();
    if (nodes_[n].alive) {
      crash_node(n);
      after(between(milliseconds(50), milliseconds(8000)), [this, n] { start_node(n); });
    }
  }
  if (is_due(faults_.coordinator_crash_every) && coordinator_) {
    crash_coordinator();
    after(between(milliseconds(10), milliseconds(4000)), [this] { start_coordinator(); });
  }
  if (!coordinator_ && faults_.store_failure > 0 && chance(0.1)) start_coordinator();
  if (is_due(faults_.partition_every)) {
    auto name = nodes_[any()].name.value;
    cut_node(name, true);
    after(between(milliseconds(100), milliseconds(7000)), [this, name] { cut_node(name, false); });
  }
  if (is_due(faults_.freeze_every)) freeze_node(any(), between(milliseconds(500), milliseconds(9000)));
  if (is_due(faults_.command_every)) {
    auto what = random_command();
    command(what);
    after(between(milliseconds(1), milliseconds(2000)), [this, what] { command(what); });
  }
}

admin_command simulated_cluster::random_command() {
  auto node = [&] { return node_id{fmt::format("expert-{}", random_() % shape_.slots.size())}; };
  expert_id expert{layer_id::of(static_cast<std::uint32_t>(random_() % shape_.layers)),
                   static_cast<std::uint32_t>(random_() % shape_.experts_per_layer)};
  admin_command command{"cli", fmt::format("command-{}", next_command_++), undrain_node{node(), false}};
  switch (random_() % 13) {
    case 0:
      break;
    case 7:
      command.what = random_refresh();
      break;
    case 9:
      command.what = random_placement();
      break;
    case 8:
      command.what = roll_back_placement{{1 + random_() % (newest_epoch_.value + 1)}, false};
      break;
    case 5:
    case 6:
      command.what = change_presence{expert, static_cast<change_presence::verb>(random_() % 2), false};
      break;
    case 1:
      command.what = drain_node{node(), false};
      break;
    case 2:
      command.what = replicate_expert{expert, 1 + static_cast<std::uint32_t>(random_() % 3), false};
      break;
    case 3:
      command.what = pin_expert{expert, chance(0.5), false};
      break;
    case 4:
      command.what = cancel_operation{operation_name(coordinator_ ? coordinator_->state().last_operation : 1), false};
      break;
    default:
      command.what = migrate_expert{expert, node(), std::nullopt, false};
  }
  return command;
}

// Half of the experts have other weights there; one of three folders is the model's own.
refresh_weights simulated_cluster::random_refresh() {
  refresh_weights refresh{"/models/next", std::nullopt, false};
  if (chance(0.3)) refresh.layer = layer_id::of(static_cast<std::uint32_t>(random_() % shape_.layers));
  auto content = static_cast<std::byte>(random_() % 3);
  for (const auto& [layer, gate] : settings_of(shape_).gates) {
    for (std::uint32_t e = 0; e < gate.num_experts; ++e) {
      expert_id id{layer, e};
      auto digest = digest_of(id);
      if (chance(0.5)) digest[2] = content;
      refresh.found->push_back({id, digest});
    }
  }
  return refresh;
}

apply_placement simulated_cluster::random_placement() {
  apply_placement placement;
  for (const auto& [layer, gate] : settings_of(shape_).gates) {
    for (std::uint32_t e = 0; e < gate.num_experts; ++e) {
      if (!chance(0.4)) continue;
      std::vector<node_id> nodes;
      for (std::size_t n = 0; n < shape_.slots.size(); ++n) {
        if (chance(0.4)) nodes.push_back(nodes_[n].name);
      }
      if (!nodes.empty()) placement.experts.push_back({{layer, e}, nodes});
    }
  }
  return placement;
}

void simulated_cluster::heal() {
  faults_ = {};
  cut_.clear();
  start_coordinator();
  for (std::size_t n = 0; n < nodes_.size(); ++n) {
    nodes_[n].frozen_until = {};
    start_node(n);
  }
  for (std::size_t n = 0; n < shape_.slots.size(); ++n) {
    auto name = nodes_[n].name;
    // Until it is heard: the coordinator may be starting.
    for (int repeat = 0; repeat < 3; ++repeat) {
      after(milliseconds(20'000 + repeat * 500), [this, name] {
        command({"cli", fmt::format("heal-{}-{}", name.value, next_command_++), undrain_node{name, false}});
      });
    }
  }
  // Where there is hardly room for all, wishes can stand in each other's way: they are given up, half of the time.
  if (!shape_.tight && chance(0.5)) return;
  // What is cancelled first needs its time to go back.
  for (int repeat = 0; repeat < 12; ++repeat) {
    after(milliseconds(20'100 + repeat * 1'000), [this] { give_up_wishes(); });
  }
}

void simulated_cluster::give_up_wishes() {
  if (!coordinator_) return;
  for (const auto& [number, operation] : coordinator_->state().operations) {
    if (operation.state == operation_state::running && !operation.changes.empty())
      command({"cli", fmt::format("heal-{}", next_command_++), cancel_operation{operation_name(number), false}});
  }
  for (const auto& expert : coordinator_->state().experts) {
    command({"cli", fmt::format("heal-{}", next_command_++), pin_expert{expert.id, false, false}});
    command({"cli", fmt::format("heal-{}", next_command_++),
             change_presence{expert.id, change_presence::verb::restore, false}});
    command({"cli", fmt::format("heal-{}", next_command_++), replicate_expert{expert.id, shape_.replication, false}});
  }
}

// -- at every step
// --------------------------------------------------------------------------------------------------------

// A slot is freed only when no live router may still use it.
void simulated_cluster::check_order(const node_message& message) {
  if (const auto* load = std::get_if<load_order>(&message.what)) {
    std::erase_if(frees_, [&](const auto& key) {
      return std::get<0>(key) == message.node.value && std::get<2>(key) == load->slot.value;
    });
    note(fmt::format("load {} into {} of {}", to_string(load->expert), load->slot.value, message.node.value));
  }
  const auto* order = std::get_if<free_order>(&message.what);
  if (order != nullptr) {
    note(fmt::format("free {} in {} of {}", to_string(order->expert), order->slot.value, message.node.value));
  }
  const auto* node = find(message.node);
  if (order == nullptr || node == nullptr) return;
  auto key = std::tuple(message.node.value, node->incarnation.value, order->slot.value, order->expert);
  if (!frees_.insert(key).second) return;  // repeated
  for (const auto& router : nodes_) {
    if (router.role != node_role::router || !router.alive || !router.map) continue;
    auto believed = coordinator_->state().nodes.find(router.name);
    bool is_live = believed != coordinator_->state().nodes.end() && is_member(believed->second) &&
                   believed->second.incarnation == router.incarnation;
    const auto* expert = router.map->find(order->expert);
    if (!is_live || expert == nullptr) continue;
    for (const auto& replica : expert->replicas) {
      const auto& holder = router.map->nodes[replica.node];
      if (holder.name == message.node && holder.incarnation == node->incarnation && replica.slot == order->slot) {
        violate(fmt::format("slot {} of {} is freed while {} still uses it for {} by epoch {}", order->slot.value,
                            message.node.value, router.name.value, to_string(order->expert), router.map->epoch.value));
      }
    }
  }
}

namespace {

// "0/1 v2: expert-0 expert-2 | ...": what a rollback brings back.
std::string placement_of(const cluster_map& map) {
  std::string text;
  for (const auto& expert : map.experts) {
    text += fmt::format("{} v{}{}:", to_string(expert.id), expert.version.value, expert.masked ? " masked" : "");
    for (const auto& replica : expert.replicas) text += " " + map.nodes[replica.node].name.value;
    text += " | ";
  }
  return text;
}

}  // namespace

// What the coordinator remembers after a restart is what it published before.
void simulated_cluster::check_history() {
  const auto& state = coordinator_->state();
  for (const auto& [epoch, placement] : placements_) {
    const auto map = state.history.map_of(epoch);
    if (map == nullptr) {
      violate(fmt::format("epoch {} is forgotten after a restart", epoch.value));
    } else if (placement_of(*map) != placement) {
      violate(fmt::format("epoch {} was {} and is {} after a restart", epoch.value, placement, placement_of(*map)));
    }
  }
}

void simulated_cluster::check_publication(const cluster_map& map) {
  if (std::pair(map.term, map.epoch) < std::pair(newest_term_, newest_epoch_) || map.epoch < newest_epoch_) {
    violate(fmt::format("epoch {} of term {} after epoch {} of term {}", map.epoch.value, map.term.value,
                        newest_epoch_.value, newest_term_.value));
  }
  if (newest_map_ && map.epoch == newest_epoch_ &&
      (map.nodes != newest_map_->nodes || map.experts != newest_map_->experts)) {
    violate(fmt::format("epoch {} has two contents", map.epoch.value));
  }
  placements_.emplace(map.epoch, placement_of(map));
  while (placements_.size() >= placement_history::maps_max) placements_.erase(placements_.begin());
  for (const auto& expert : map.experts) {
    std::set<std::uint32_t> holders;
    for (const auto& replica : expert.replicas) {
      if (replica.version != expert.version)
        violate(fmt::format("epoch {} mixes versions of {}", map.epoch.value, to_string(expert.id)));
      if (!holders.insert(replica.node).second)
        violate(fmt::format("two replicas of {} on one node", to_string(expert.id)));
      const auto& holder = map.nodes[replica.node];
      const auto* node = find(holder.name);
      if (!node->alive || node->incarnation != holder.incarnation) continue;
      auto held = node->slots.find(replica.slot);
      bool good = held != node->slots.end() && held->second.expert == expert.id && !held->second.wrong_digest &&
                  held->second.version == expert.version && expert.digest == held->second.digest &&
                  held->second.state == reported_slot_state::ready;
      if (!good) {
        violate(fmt::format("epoch {} names {} in slot {} of {}, which does not hold it", map.epoch.value,
                            to_string(expert.id), replica.slot.value, holder.name.value));
      }
    }
  }
  for (const auto& expert : map.experts) {
    const auto* before = newest_map_ ? newest_map_->find(expert.id) : nullptr;
    if (before != nullptr && before->masked && !expert.masked && expert.replicas.empty()) {
      violate(fmt::format("epoch {} lets rows choose {}, which nobody holds", map.epoch.value, to_string(expert.id)));
    }
    auto mask = map.gate_mask(expert.id.layer);
    if (!mask.empty() && std::ranges::count(mask, 1) == 0) {
      violate(fmt::format("epoch {} leaves no expert of layer {}", map.epoch.value, to_string(expert.id.layer)));
    }
  }
  newest_term_ = map.term;
  newest_epoch_ = map.epoch;
  newest_map_ = std::make_shared<const cluster_map>(map);

  // No expert unroutable while a verified replica lives on a serving node.
  for (const auto& [name, node] : coordinator_->state().nodes) {
    if (!is_serving(node)) continue;
    const auto* truth = find(name);
    for (const auto& [slot, entry] : node.slots) {
      bool verified =
          std::holds_alternative<slot_ready>(entry.life) || std::holds_alternative<slot_retiring>(entry.life);
      auto held = truth->slots.find(slot);
      bool lives = truth->alive && truth->incarnation == node.incarnation && held != truth->slots.end() &&
                   held->second.expert == entry.expert && held->second.state == reported_slot_state::ready;
      // One that became ready while this map was being written is in the next map.
      // One of another version than the map's cannot be: its layer has gone over.
      bool was_routable = lives && verified && std::holds_alternative<slot_retiring>(entry.life) &&
                          entry.version == map.find(entry.expert)->version;
      const auto& in_map = *map.find(entry.expert);
      if (was_routable && !in_map.masked && in_map.replicas.empty()) {
        violate(fmt::format("epoch {} has no replica of {}, though {} still holds one", map.epoch.value,
                            to_string(entry.expert), name.value));
      }
    }
  }
}

void simulated_cluster::check_beliefs() {
  if (!coordinator_) return;
  for (const auto& [name, node] : coordinator_->state().nodes) {
    if (node.slots.size() > node.facts.slots_total && node.is_expert())
      violate(fmt::format("{} is over its slots", name.value));
    std::set<std::pair<expert_id, weights_version>> held;
    std::uint32_t ordered = 0;
    for (const auto& [slot, entry] : node.slots) {
      if (std::holds_alternative<slot_ordered>(entry.life)) ++ordered;
      bool counts =
          !std::holds_alternative<slot_freeing>(entry.life) && !std::holds_alternative<slot_failed>(entry.life);
      if (counts && !held.insert({entry.expert, entry.version}).second) {
        violate(fmt::format("two replicas of {} are planned on {}", to_string(entry.expert), name.value));
      }
    }
    if (ordered > limits::loads_per_node_max) violate(fmt::format("too many loads in flight on {}", name.value));
  }
}

void simulated_cluster::check_truth() {
  for (const auto& node : nodes_) {
    if (node.role == node_role::expert && node.slots.size() > node.slots_total)
      violate(fmt::format("{} overflows", node.name.value));
  }
}

// -- at rest
// ----------------------------------------------------------------------------------------------------------------

// How many of the wanted replicas fit at best: those of the experts that want most of them, each on the emptiest nodes.
std::size_t simulated_cluster::most_replicas(const cluster_state& state) {
  std::vector<std::size_t> room;
  for (const auto& [name, node] : state.nodes) {
    if (node.is_expert() && !node.is_draining()) room.push_back(node.facts.slots_total);
  }
  std::vector<std::uint32_t> wanted;
  for (const auto& expert : state.experts) wanted.push_back(wanted_replicas(state, expert));
  std::ranges::sort(wanted, std::greater<>{});
  std::size_t placed = 0;
  for (auto count : wanted) {
    std::ranges::sort(room, std::greater<>{});
    for (std::size_t n = 0; n < std::min<std::size_t>(count, room.size()) && room[n] > 0; ++n, ++placed) --room[n];
  }
  return placed;
}

std::string simulated_cluster::unsettled() const {
  if (!coordinator_) return "no coordinator";
  const auto& state = coordinator_->state();
  std::uint64_t capacity = 0;
  std::uint32_t accepting = 0;
  auto experts = state.experts.size();
  for (const auto& node : nodes_) {
    auto at = state.nodes.find(node.name);
    if (at == state.nodes.end() || !std::holds_alternative<node_serving>(at->second.life)) {
      return fmt::format("{} does not serve", node.name.value);
    }
    if (node.role == node_role::router) {
      if (!node.map || node.map->epoch != state.published->epoch)
        return fmt::format("{} has an old map", node.name.value);
      continue;
    }
    if (at->second.is_draining()) {
      if (!node.slots.empty()) return fmt::format("{} is not empty", node.name.value);
      continue;
    }
    ++accepting;
    capacity += std::min<std::uint64_t>(node.slots_total, experts);
  }
  std::uint64_t needed = 0;
  for (const auto& expert : state.experts) needed += std::min(wanted_replicas(state, expert), accepting);
  bool enough = capacity >= needed;
  std::size_t held = 0;
  for (const auto& expert : state.published->experts) {
    held += expert.replicas.size();
    auto replicas = std::min(wanted_replicas(state, *state.find(expert.id)), accepting);
    if (enough && expert.replicas.size() != replicas) {
      return fmt::format("{} has {} replicas, not {}", to_string(expert.id), expert.replicas.size(), replicas);
    }
  }
  if (!enough && held != most_replicas(state)) {
    return fmt::format("{} replicas in {} slots, {} fit", held, capacity, most_replicas(state));
  }
  if (auto open = unfulfilled(); enough && !open.empty()) return open;
  std::size_t truth = 0;
  for (const auto& node : nodes_) truth += node.slots.size();
  if (truth != held) return fmt::format("the nodes hold {} replicas, the map {}", truth, held);
  return "";
}

// Operations that should have ended, and wishes that nothing stands in the way of.
std::string simulated_cluster::unfulfilled() const {
  const auto& state = coordinator_->state();
  for (const auto& [number, operation] : state.operations) {
    if (operation.state == operation_state::running) {
      auto seen = operations::look(state, operation);
      return fmt::format("{} is at step {}: {}", operation_name(number), operations::to_string(seen.at), seen.detail);
    }
  }
  for (const auto& expert : state.experts) {
    if (expert.version != expert.wish.version)
      return fmt::format("{} is still served in version {}", to_string(expert.id), expert.version.value);
    auto count = std::min<std::size_t>(expert.wish.nodes.size(), wanted_replicas(state, expert));
    for (std::size_t n = 0; n < count; ++n) {
      const auto& name = expert.wish.nodes[n];
      auto at = state.nodes.find(name);
      bool has = std::ranges::find(expert.wanted, name) != expert.wanted.end();
      if (at == state.nodes.end() || has || at->second.slots.size() >= at->second.facts.slots_total) continue;
      return fmt::format("{} is not on {}, where it should be", to_string(expert.id), name.value);
    }
  }
  return "";
}

}  // namespace troupe::simulation
