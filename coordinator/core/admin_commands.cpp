#include "coordinator/core/admin_commands.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/limits.hpp"
#include "coordinator/core/audit.hpp"
#include "coordinator/core/bulk_commands.hpp"
#include "coordinator/core/expert_commands.hpp"
#include "coordinator/core/membership.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/reconciler.hpp"
#include "coordinator/core/refresh_schedule.hpp"

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
  for (const auto& expert : state.experts) c.needed += std::min<std::uint64_t>(wanted_replicas(state, expert), c.nodes);
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
                fmt::format("the other {} nodes have {} usable slots, but the replicas of {} experts need {}; add a "
                            "node or slots first",
                            c.nodes, c.slots, state.experts.size(), c.needed));
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

bool is_dry_run(const admin_command& command) {
  return std::visit(
      overloaded{[](const stop_cluster&) { return false; }, [](const auto& what) { return what.dry_run; }},
      command.what);
}

void reply(cluster_state& state, const admin_command& command, result<command_outcome> outcome) {
  if (command.peer.empty()) return refresh_schedule::refreshed(state, outcome);
  state.out.replies.push_back({command.peer, command.command_id, std::move(outcome)});
}

void refuse(cluster_state& state, const admin_command& command, const error& why) {
  reply(state, command, fail(why));
  if (!is_dry_run(command)) audit(state, command, fail(why));
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

// An operation of this node that is under way; nullptr: none.
const operation_record* running_drain(const cluster_state& state, const node_id& name) {
  for (const auto& [number, operation] : state.operations) {
    bool is_it = operation.state == operation_state::running && operation.kind == operation_kind::drain &&
                 operation.node == name;
    if (is_it) return &operation;
  }
  return nullptr;
}

result<decision> with_node_change(const cluster_state& state, const admin_command& command,
                                  result<command_outcome> outcome) {
  if (!outcome) return fail(outcome.error());
  decision d{*std::move(outcome), {}};
  const auto* drain = std::get_if<drain_node>(&command.what);
  if (drain != nullptr && d.outcome.operation.empty()) {
    operation_record operation;
    operation.number = state.last_operation + 1;
    operation.kind = operation_kind::drain;
    operation.node = drain->node;
    d.outcome.operation = operation_name(operation.number);
    d.records.emplace_back(std::move(operation));
  }
  const auto* undrain = std::get_if<undrain_node>(&command.what);
  if (const auto* under_way = undrain != nullptr ? running_drain(state, undrain->node) : nullptr) {
    d.records = operations::ended(state, *under_way, operation_state::cancelled, "the node was given work again");
  }
  if (auto change = node_change(state, command, d.outcome)) d.records.push_back(std::move(*change));
  return d;
}

// A drain is cancelled by giving the node work again: `command` becomes that.
result<decision> decide_cancel(const cluster_state& state, admin_command& command) {
  auto what = std::get<cancel_operation>(command.what);
  auto operation = expert_commands::find_operation(state, what.operation);
  if (!operation) return fail(operation.error());
  if (operations::is_in_flight(state, (*operation)->number)) {
    return fail(errc::in_progress, fmt::format("a change of {} is being written; repeat it", what.operation));
  }
  bool is_drain = (*operation)->kind == operation_kind::drain && (*operation)->state == operation_state::running;
  if (!is_drain) return expert_commands::check_cancel(**operation);
  undrain_node undrain{(*operation)->node, what.dry_run};
  command.what = undrain;
  auto d = with_node_change(state, command, check_undrain(state, undrain));
  if (!d) return d;
  d->outcome.verb = "cancel";
  d->outcome.operation = what.operation;
  return d;
}

result<decision> decide(const cluster_state& state, admin_command& command) {
  return std::visit(
      overloaded{
          [&](const drain_node& what) { return with_node_change(state, command, check_drain(state, what)); },
          [&](const undrain_node& what) { return with_node_change(state, command, check_undrain(state, what)); },
          [&](const remove_node& what) { return with_node_change(state, command, check_remove(state, what)); },
          [&](const stop_cluster&) -> result<decision> {
            return decision{{"", "stop", {}, "done", "the cluster is being stopped", 0}};
          },
          [&](const cancel_operation&) { return decide_cancel(state, command); },
          [&](const refresh_weights& what) { return bulk_commands::check(state, what); },
          [&](const roll_back_placement& what) { return bulk_commands::check(state, what); },
          [&](const apply_placement& what) { return bulk_commands::check(state, what); },
          [&](const schedule_refresh& what) { return refresh_schedule::check(state, what); },
          [&](const auto& what) { return expert_commands::check(state, what); },
      },
      command.what);
}

void remove_now(cluster_state& state, const node_id& name) {
  auto& node = state.nodes.at(name);
  state.tell(severity::warning, "node_removed", name.value, fmt::format("{} was removed by an operator", name.value));
  state.forget_reports(name);
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
                 [](const auto&) {},  // all of it is in the records: operations::committed
             },
             command.what);
}

}  // namespace

void handle(cluster_state& state, const admin_command& asked) {
  auto command = asked;
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
  auto decided = decide(state, command);
  if (!decided) return refuse(state, asked, decided.error());
  auto& outcome = decided->outcome;
  if (is_dry_run(command)) {
    outcome.state = "dry_run";
    outcome.operation.clear();
    return reply(state, command, std::move(outcome));
  }
  if (state.alarm) return refuse(state, asked, {errc::no_space, state.alarm->message});
  if (std::holds_alternative<refresh_weights>(command.what) && outcome.operation.empty()) {
    state.totals.refreshed_unix_ms = unix_ms(state);
    ++state.totals.refreshes_unchanged;
    // The schedule looks every so often for as long as the cluster lives: only news are events, and worth a record.
    if (command.peer.empty()) return reply(state, command, std::move(outcome));
  }

  operations::sign(state, decided->records, command.who, command.at_unix_ms);
  persist_in_flight then;
  then.command = command;
  then.outcome = outcome;
  then.command_number = ++state.last_command_number;
  auto records = std::move(decided->records);
  records.emplace_back(command_record{command.command_id, then.command_number, outcome});
  if (state.commands.size() >= limits::admin_commands_kept_max) {
    auto oldest = std::ranges::min_element(state.commands, {}, [](const auto& item) { return item.second.number; });
    records.emplace_back(command_erased{oldest->first});
  }
  reply(state, command, outcome);
  audit(state, asked, outcome);
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
  refuse(state, *failed.command, why);
}

}  // namespace troupe::coordinator::admin_commands
