#include "coordinator/core/admin_commands.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/limits.hpp"
#include "coordinator/core/membership.hpp"
#include "coordinator/core/reconciler.hpp"

namespace troupe::coordinator::admin_commands {
namespace {

std::string known_names(const cluster_state& state) {
  std::vector<std::string> names;
  for (const auto& [name, node] : state.nodes) {
    if (!node.removed) names.push_back(name.value);
  }
  return names.empty() ? "there is none yet" : fmt::format("there are {}", fmt::join(names, ", "));
}

result<const node_entry*> known_node(const cluster_state& state, const node_id& name) {
  auto at = state.nodes.find(name);
  if (at == state.nodes.end() || at->second.removed) {
    return fail(errc::not_found, fmt::format("no node {}; {}", name.value, known_names(state)));
  }
  return &at->second;
}

std::uint32_t used_slots(const node_entry& node) { return static_cast<std::uint32_t>(node.slots.size()); }

// Can the other nodes hold what the replication asks for? Each holds an expert at most once, so a node counts with no
// more slots than there are experts.
struct capacity {
  std::uint64_t nodes{};
  std::uint64_t slots{};
  std::uint64_t needed{};
};
capacity capacity_without(const cluster_state& state, const node_id& leaving) {
  capacity c;
  auto experts = state.experts.size();
  for (const auto& [name, node] : state.nodes) {
    if (name == leaving || !node.is_expert() || !is_serving(node) || node.is_draining()) continue;
    ++c.nodes;
    c.slots += std::min<std::uint64_t>(node.facts.slots_total, experts);
  }
  c.needed = experts * std::min<std::uint64_t>(state.settings.replication, c.nodes);
  return c;
}

result<command_outcome> check_drain(const cluster_state& state, const drain_node& what) {
  auto found = known_node(state, what.node);
  if (!found) return fail(found.error());
  const auto& node = **found;
  if (!node.is_expert()) {
    return fail(errc::invalid_request, fmt::format("{} is a router and holds no experts; stop it when its clients are "
                                                   "gone",
                                                   what.node.value));
  }
  command_outcome outcome{"", "drain", what.node, "running", "", used_slots(node)};
  if (node.drain) {
    outcome.operation = node.drain->id;
    outcome.state = node.drain->done ? "done" : "running";
    outcome.message = fmt::format("{} is {} already", what.node.value, node.drain->done ? "drained" : "being drained");
    return outcome;
  }
  if (!is_serving(node)) {
    return fail(errc::conflict, fmt::format("{} is {}, so nothing can be moved off it; wait until it serves, or remove "
                                            "it",
                                            what.node.value, to_string(shown_state(node))));
  }
  auto c = capacity_without(state, what.node);
  if (c.nodes == 0) {
    return fail(errc::conflict,
                fmt::format("{} is the last node that takes experts; add another expert node first", what.node.value));
  }
  if (c.slots < c.needed) {
    return fail(errc::conflict,
                fmt::format("the other {} nodes have {} usable slots, but {} experts with {} replicas need {}; add a "
                            "node or slots first",
                            c.nodes, c.slots, state.experts.size(),
                            c.needed / std::max<std::size_t>(state.experts.size(), 1), c.needed));
  }
  outcome.message = fmt::format("{} replicas move to {} other nodes", used_slots(node), c.nodes);
  if (c.nodes < state.settings.replication) {
    outcome.message += fmt::format("; the replication falls from {} to {}", state.settings.replication, c.nodes);
  }
  return outcome;
}

result<command_outcome> check_undrain(const cluster_state& state, const undrain_node& what) {
  auto found = known_node(state, what.node);
  if (!found) return fail(found.error());
  bool draining = (*found)->is_draining();
  return command_outcome{"",
                         "undrain",
                         what.node,
                         "done",
                         draining ? fmt::format("{} gets work again", what.node.value)
                                  : fmt::format("{} is not drained; nothing to do", what.node.value),
                         0};
}

// Experts whose only replica in the map is on this node.
std::uint32_t last_replicas(const cluster_state& state, const node_id& name) {
  const auto& map = *state.published;
  return static_cast<std::uint32_t>(std::ranges::count_if(map.experts, [&](const map_expert& expert) {
    return !expert.replicas.empty() && std::ranges::all_of(expert.replicas, [&](const map_replica& replica) {
      return map.nodes[replica.node].name == name;
    });
  }));
}

result<command_outcome> check_remove(const cluster_state& state, const remove_node& what) {
  auto found = known_node(state, what.node);
  if (!found) return fail(found.error());
  const auto& node = **found;
  command_outcome outcome{
      "", "remove", what.node, "done", fmt::format("{} is no longer part of the cluster", what.node.value), 0};
  if (!is_member(node)) return outcome;
  auto last = node.is_expert() ? last_replicas(state, what.node) : 0;
  if (last > 0 && !what.force) {
    return fail(
        errc::conflict,
        fmt::format("{} holds the last replica of {} experts, which nobody could reach any more; run troupe node "
                    "drain {} first, or use --force",
                    what.node.value, last, what.node.value));
  }
  if (last > 0) outcome.message += fmt::format("; {} experts are unroutable until they are loaded elsewhere", last);
  outcome.replicas_to_move = used_slots(node);
  return outcome;
}

result<command_outcome> check(const cluster_state& state, const admin_command& command) {
  return std::visit(overloaded{
                        [&](const drain_node& what) { return check_drain(state, what); },
                        [&](const undrain_node& what) { return check_undrain(state, what); },
                        [&](const remove_node& what) { return check_remove(state, what); },
                        [&](const stop_cluster&) -> result<command_outcome> {
                          return command_outcome{"", "stop", {}, "done", "the cluster is being stopped", 0};
                        },
                    },
                    command.what);
}

bool is_dry_run(const admin_command& command) {
  return std::visit(
      overloaded{[](const stop_cluster&) { return false; }, [](const auto& what) { return what.dry_run; }},
      command.what);
}

void reply(cluster_state& state, const admin_command& command, result<command_outcome> outcome) {
  state.out.replies.push_back({command.peer, command.command_id, std::move(outcome)});
}

// The change of the node's own record that makes the command survive a restart.
std::optional<store_record> node_change(const cluster_state& state, const admin_command& command,
                                        const command_outcome& outcome) {
  const auto* drain = std::get_if<drain_node>(&command.what);
  const auto* undrain = std::get_if<undrain_node>(&command.what);
  const auto* remove = std::get_if<remove_node>(&command.what);
  const auto* name = drain != nullptr     ? &drain->node
                     : undrain != nullptr ? &undrain->node
                     : remove             ? &remove->node
                                          : nullptr;
  if (name == nullptr) return std::nullopt;
  const auto& node = state.nodes.at(*name);
  // What the disk says about the node in the map stays as it is until the next map is written.
  auto durable = state.durable_nodes.find(*name);
  bool known = durable != state.durable_nodes.end();
  if (remove != nullptr && !is_member(node) && !(known && durable->second.in_map)) return node_erased{*name};
  auto changed = known ? durable->second : node_record{*name, node.incarnation, node.facts, {}, false, "", false};
  changed.draining = drain != nullptr;
  changed.operation = outcome.operation;
  changed.removed = remove != nullptr;
  return changed;
}

void remove_now(cluster_state& state, const node_id& name) {
  auto& node = state.nodes.at(name);
  state.tell(severity::warning, "node_removed", name.value, fmt::format("{} was removed by an operator", name.value));
  state.traffic.forget(name);
  if (!is_member(node)) {
    state.nodes.erase(name);
    return;
  }
  node.slots.clear();
  node.drain.reset();
  node.peer.clear();
  node.removed = true;
  node.life = node_lost{state.now, "removed by an operator"};
}

void carry_out(cluster_state& state, const admin_command& command, const command_outcome& outcome) {
  state.dirty = true;
  std::visit(overloaded{
                 [&](const drain_node& what) {
                   if (auto* node = state.find(what.node); node != nullptr && !node->drain) {
                     node->drain = drain_operation{outcome.operation, used_slots(*node), false};
                     state.tell(severity::info, "node_draining", what.node.value, outcome.message);
                   }
                 },
                 [&](const undrain_node& what) {
                   if (auto* node = state.find(what.node); node != nullptr && node->drain) {
                     node->drain.reset();
                     state.tell(severity::info, "node_undrained", what.node.value, outcome.message);
                   }
                 },
                 [&](const remove_node& what) {
                   if (state.find(what.node) != nullptr) remove_now(state, what.node);
                 },
                 [&](const stop_cluster&) {
                   state.stopping = true;
                   state.tell(severity::warning, "cluster_stopping", state.settings.cluster_id, outcome.message);
                 },
             },
             command.what);
}

}  // namespace

void handle(cluster_state& state, const admin_command& command) {
  if (command.command_id.empty() || command.command_id.size() > 64) {
    return reply(state, command, fail(errc::invalid_request, "command_id must have 1 to 64 characters; send a UUID"));
  }
  if (auto known = state.commands.find(command.command_id); known != state.commands.end()) {
    return reply(state, command, known->second.outcome);
  }
  for (const auto& [ticket, parts] : state.in_flight) {
    bool same = std::ranges::any_of(
        parts, [&](const auto& part) { return part.command && part.command->command_id == command.command_id; });
    if (same) {
      return reply(state, command,
                   fail(errc::in_progress, fmt::format("command {} is being written; repeat it", command.command_id)));
    }
  }
  if (!state.term_durable) return reply(state, command, fail(errc::unavailable, "the coordinator is starting; repeat"));
  auto outcome = check(state, command);
  if (!outcome) return reply(state, command, std::move(outcome));
  if (is_dry_run(command)) {
    outcome->state = "dry_run";
    return reply(state, command, std::move(outcome));
  }
  if (state.alarm) return reply(state, command, fail(errc::no_space, state.alarm->message));

  bool starts_operation = std::holds_alternative<drain_node>(command.what) && outcome->operation.empty();
  if (starts_operation) outcome->operation = fmt::format("op-{}-{}", state.term.value, ++state.last_operation);
  persist_in_flight then;
  then.command = command;
  then.outcome = *outcome;
  then.command_number = ++state.last_command_number;
  std::vector<store_record> records{command_record{command.command_id, then.command_number, *outcome}};
  if (auto change = node_change(state, command, *outcome)) records.push_back(std::move(*change));
  if (state.commands.size() >= limits::admin_commands_kept_max) {
    auto oldest = std::ranges::min_element(state.commands, {}, [](const auto& item) { return item.second.number; });
    records.emplace_back(command_erased{oldest->first});
  }
  reply(state, command, *outcome);
  state.persist(std::move(records), std::move(then));
}

void committed(cluster_state& state, const persist_in_flight& done) {
  for (const auto& item : done.records) {
    if (const auto* erased = std::get_if<command_erased>(&item)) state.commands.erase(erased->command_id);
  }
  state.commands[done.command->command_id] = {done.command_number, *done.outcome};
  carry_out(state, *done.command, *done.outcome);
}

void rejected(cluster_state& state, const persist_in_flight& failed, const error& why) {
  reply(state, *failed.command, fail(why));
}

}  // namespace troupe::coordinator::admin_commands
