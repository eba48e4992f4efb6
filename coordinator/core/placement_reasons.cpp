#include "coordinator/core/placement_reasons.hpp"

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "coordinator/core/operations.hpp"

namespace troupe::coordinator::placement_reasons {
namespace {

std::string of_operation(const operation_record& operation) {
  if (operation.cancelling) return fmt::format("{} is taken back", operation_name(operation.number));
  auto by = operation.who.empty() ? "" : fmt::format(" by {}", operation.who);
  auto why = operation.why.empty() ? "" : fmt::format(" ({})", operation.why);
  return fmt::format("{}: {}{}{}", operation_name(operation.number), to_string(operation.kind), by, why);
}

const slot_entry* slot_of(const node_entry& node, const expert_id& expert) {
  auto at = std::ranges::find_if(node.slots, [&](const auto& item) { return item.second.expert == expert; });
  return at == node.slots.end() ? nullptr : &at->second;
}

std::string of_drain(const node_id& name, const node_entry& node) {
  return fmt::format("{}: drain of {}", node.drain->id.empty() ? "an operator" : node.drain->id, name.value);
}

// A node with the expert that is being emptied; empty: none.
std::string drain_behind(const cluster_state& state, const expert_id& expert) {
  for (const auto& [name, node] : state.nodes) {
    if (node.is_draining() && slot_of(node, expert) != nullptr) return of_drain(name, node);
  }
  return "";
}

// The reason for which the replica came that stands in for this node's one; empty: none does.
std::string successor_came_for(const cluster_state& state, const expert_id& expert, const node_id& name) {
  for (const auto& [other, node] : state.nodes) {
    for (const auto& [slot, entry] : node.slots) {
      if (entry.expert == expert && entry.replaces == name) return entry.came_for;
    }
  }
  return "";
}

std::string why_missing(const cluster_state& state, const expert_entry& expert, move_reason reason) {
  if (!state.settled) return "first placement";
  if (auto drain = drain_behind(state, expert.id); !drain.empty()) return drain;
  if (reason == move_reason::first_replica) return "repair: no node that takes work had it";
  return fmt::format("repair: fewer than {} replicas", wanted_replicas(state, expert));
}

std::string why_left(const cluster_state& state, const node_id& name) {
  auto at = state.nodes.find(name);
  if (at == state.nodes.end()) return "it is gone";
  if (at->second.removed) return "removed by an operator";
  if (const auto* lost = std::get_if<node_lost>(&at->second.life)) return lost->reason;
  return fmt::format("it is {}", troupe::to_string(shown_state(at->second)));
}

// -- two maps ---------------------------------------------------------------------------------------------------------

class comparison {
 public:
  comparison(const cluster_state& state, const cluster_map& before, const cluster_map& after)
      : state_(state), before_(before), after_(after) {}

  placement_epoch run() {
    result_.term = after_.term;
    result_.epoch = after_.epoch;
    result_.at_unix_ms = unix_ms(state_);
    compare_nodes();
    for (const auto& expert : after_.experts) compare_expert(before_.find(expert.id), expert);
    for (auto& [key, changes] : groups_) result_.experts.push_back(std::move(changes));
    return std::move(result_);
  }

 private:
  void compare_nodes() {
    for (const auto& node : after_.nodes) {
      const auto* was = before_.find(node.name);
      if (was == nullptr) {
        result_.nodes.push_back({node.name, node_change::kind::came, ""});
      } else if (was->state != node.state) {
        bool drains = node.state == node_state::draining;
        result_.nodes.push_back({node.name, drains ? node_change::kind::draining : node_change::kind::undrained, ""});
      }
    }
    for (const auto& node : before_.nodes) {
      if (after_.find(node.name) == nullptr)
        result_.nodes.push_back({node.name, node_change::kind::left, why_left(state_, node.name)});
    }
  }

  static bool has(const cluster_map& map, const map_expert* expert, const node_id& name) {
    return expert != nullptr && std::ranges::any_of(expert->replicas, [&](const auto& replica) {
             return map.nodes[replica.node].name == name;
           });
  }

  void compare_expert(const map_expert* was, const map_expert& now) {
    result_.replicas += now.replicas.size();
    const auto* operation = operations::running_on(state_, now.id);
    if (was != nullptr && was->version != now.version) {
      note(expert_changes::kind::refreshed, {},
           fmt::format("version {} instead of {}; {}", now.version.value, was->version.value,
                       operation != nullptr ? of_operation(*operation) : "as wished"),
           now.id);
      return;  // all its replicas are others
    }
    for (const auto& replica : now.replicas) {
      const auto& name = after_.nodes[replica.node].name;
      if (!has(before_, was, name)) note(expert_changes::kind::added, name, why_added(now.id, name), now.id);
    }
    if (was == nullptr) return;
    for (const auto& replica : was->replicas) {
      const auto& name = before_.nodes[replica.node].name;
      if (!has(after_, &now, name)) note(expert_changes::kind::removed, name, why_removed(now.id, name), now.id);
    }
    if (was->masked != now.masked) {
      note(now.masked ? expert_changes::kind::masked : expert_changes::kind::unmasked, {},
           operation != nullptr ? of_operation(*operation) : "an operator's wish", now.id);
    }
  }

  [[nodiscard]] std::string why_added(const expert_id& expert, const node_id& name) const {
    if (state_.settled && before_.find(name) == nullptr) return fmt::format("{} came with it", name.value);
    auto at = state_.nodes.find(name);
    const auto* slot = at == state_.nodes.end() ? nullptr : slot_of(at->second, expert);
    return slot != nullptr && !slot->came_for.empty() ? slot->came_for : "its node reported it";
  }
  [[nodiscard]] std::string why_removed(const expert_id& expert, const node_id& name) const {
    if (after_.find(name) == nullptr) return fmt::format("{} left: {}", name.value, why_left(state_, name));
    auto at = state_.nodes.find(name);
    const auto* slot = at == state_.nodes.end() ? nullptr : slot_of(at->second, expert);
    return slot != nullptr && !slot->goes_for.empty() ? slot->goes_for : "its node does not report it any more";
  }

  void note(expert_changes::kind what, const node_id& node, std::string why, const expert_id& expert) {
    auto& group = groups_[std::tuple(node, what, why)];
    group.what = what;
    group.node = node;
    group.why = std::move(why);
    ++group.count;
    if (group.experts.size() < placement_history::experts_named_max) group.experts.push_back(expert);
  }

  const cluster_state& state_;
  const cluster_map& before_;
  const cluster_map& after_;
  placement_epoch result_;
  std::map<std::tuple<node_id, expert_changes::kind, std::string>, expert_changes> groups_;
};

}  // namespace

std::string of(const cluster_state& state, const planner_input& view, const planned_move& move) {
  const auto& expert = *state.find(move.expert);
  const auto& name = view.nodes[move.node].name;
  if (const auto* operation = operations::running_on(state, move.expert)) return of_operation(*operation);
  switch (move.reason) {
    case move_reason::first_replica:
    case move_reason::replication:
      return why_missing(state, expert, move.reason);
    case move_reason::drain:
      return of_drain(name, state.nodes.at(name));
    case move_reason::chosen:
      return "an operator chose the node";
    case move_reason::make_room:
      return "make room: the only free slots were on nodes that had another expert already";
    case move_reason::balance:
      return "balance: nodes are filled evenly";
    case move_reason::gather:
      return "groups: the experts that rows choose together stand together";
    case move_reason::surplus:
      break;
  }
  if (!is_present(expert)) return "it takes no part";
  auto successor = successor_came_for(state, move.expert, name);
  return successor.empty() ? fmt::format("more than {} replicas", wanted_replicas(state, expert)) : successor;
}

placement_epoch describe(const cluster_state& state, const cluster_map& before, const cluster_map& after) {
  return comparison(state, before, after).run();
}

}  // namespace troupe::coordinator::placement_reasons
