#include "coordinator/core/bulk_commands.hpp"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/versions.hpp"
#include "model/gating.hpp"

namespace troupe::coordinator::bulk_commands {
namespace {

// For `experts` experts: no node takes two replicas of one.
std::uint64_t free_slots(const cluster_state& state, std::uint64_t experts) {
  std::uint64_t count = 0;
  for (const auto& [name, node] : state.nodes) {
    if (!takes_work(node)) continue;
    auto used = std::min<std::size_t>(node.slots.size(), node.facts.slots_total);
    count += std::min<std::uint64_t>(node.facts.slots_total - used, experts);
  }
  return count;
}

std::uint32_t replicas_under(const cluster_state& state, const expert_wish& wish) {
  return wish.presence == expert_presence::active ? wish.replicas.value_or(state.settings.replication) : 0;
}

// The replicas that are loaded anew for these changes.
std::uint64_t loads_of(const cluster_state& state, const wish_change& change) {
  if (change.before.version != change.after.version) return replicas_under(state, change.after);
  const auto* served = state.published->find(change.expert);
  if (served == nullptr || change.after.nodes.empty() || change.after.nodes == change.before.nodes) {
    auto before = replicas_under(state, change.before);
    auto after = replicas_under(state, change.after);
    return after > before ? after - before : 0;
  }
  auto places = places_of(state, change.expert);
  return static_cast<std::uint64_t>(std::ranges::count_if(
      change.after.nodes, [&](const node_id& name) { return std::ranges::find(places, name) == places.end(); }));
}

// A layer goes over as a whole when all its new replicas find room beside the old ones, else in batches.
bool fits_by_layers(const cluster_state& state, const std::vector<wish_change>& changes) {
  struct need {
    std::uint64_t slots{};
    std::uint64_t experts{};
  };
  std::map<layer_id, need> needed;
  for (const auto& change : changes) {
    auto loads = loads_of(state, change);
    needed[change.expert.layer].slots += loads;
    needed[change.expert.layer].experts += loads > 0 ? 1 : 0;
  }
  return std::ranges::all_of(needed, [&](const auto& item) {
    const auto& [layer, of_layer] = item;
    return of_layer.slots <= free_slots(state, of_layer.experts);
  });
}

// The smallest batch is one expert.
result<void> check_room(const cluster_state& state, const std::vector<wish_change>& changes) {
  const auto free = free_slots(state, 1);
  for (const auto& change : changes) {
    const auto loads = loads_of(state, change);
    if (loads <= free) continue;
    return fail(errc::conflict, fmt::format("expert {} is loaded beside its replicas in use, which takes a free slot "
                                            "on each of {} nodes; {} nodes have one; add a node, or give the nodes "
                                            "more slots",
                                            to_string(change.expert), loads, free));
  }
  return {};
}

result<decision> begin(const cluster_state& state, operation_record operation, command_outcome outcome) {
  for (const auto& change : operation.changes) {
    if (auto is_free = expert_commands::free_expert(state, change.expert); !is_free) return fail(is_free.error());
    auto loads = loads_of(state, change);
    outcome.replicas_to_move += static_cast<std::uint32_t>(loads);
    outcome.bytes_to_move += loads * state.find(change.expert)->bundle_bytes;
  }
  // A planned placement has been checked node by node; its moves make room for each other.
  if (operation.kind != operation_kind::apply) {
    if (auto room = check_room(state, operation.changes); !room) return fail(room.error());
    operation.in_batches = !fits_by_layers(state, operation.changes);
    if (operation.in_batches) outcome.message += "; a layer goes over in batches where free slots are short";
  }
  operation.number = state.last_operation + 1;
  outcome.operation = operation_name(operation.number);
  outcome.verb = to_string(operation.kind);
  outcome.state = "running";
  outcome.experts = static_cast<std::uint32_t>(operation.changes.size());
  return decision{std::move(outcome), {std::move(operation)}};
}

decision nothing_to_do(operation_kind kind, std::string message) {
  command_outcome outcome;
  outcome.verb = to_string(kind);
  outcome.state = "done";
  outcome.message = std::move(message);
  return {std::move(outcome), {}};
}

// The wish as it is, with the digest that makes it possible to come back to its version.
expert_wish wish_to_return_to(const expert_entry& expert) {
  auto wish = expert.wish;
  if (!wish.digest) wish.digest = versions::digest_of(expert, wish.version);
  return wish;
}

result<std::vector<wish_change>> changes_of(const cluster_state& state, const refresh_weights& what,
                                            weights_version version) {
  std::vector<wish_change> changes;
  for (const auto& found : *what.found) {
    if (what.layer && found.expert.layer != *what.layer) continue;
    auto expert = expert_commands::known_expert(state, found.expert);
    if (!expert) return fail(expert.error());
    auto before = wish_to_return_to(**expert);
    if (before.digest == found.digest) continue;
    if (!before.digest && is_present(**expert)) {
      return fail(errc::in_progress, fmt::format("expert {} has not been loaded yet; wait until the cluster serves",
                                                 to_string(found.expert)));
    }
    auto after = before;
    after.version = version;
    after.digest = found.digest;
    changes.push_back({found.expert, std::move(before), std::move(after)});
  }
  return changes;
}

std::size_t layers_in(const std::vector<wish_change>& changes) {
  std::set<layer_id> layers;
  for (const auto& change : changes) layers.insert(change.expert.layer);
  return layers.size();
}

// What the expert was in that map, as a wish; as far as it differs from what it is now.
expert_wish wish_of(const cluster_state& state, const expert_entry& expert, const cluster_map& then,
                    const map_expert& was) {
  auto wish = wish_to_return_to(expert);
  if (was.masked && is_present(expert)) wish.presence = expert_presence::pruned;
  if (!was.masked) {
    wish.presence = expert_presence::active;
    wish.pruned_by_policy = false;
  }
  if (wish.version != was.version && was.digest) {
    wish.version = was.version;
    wish.digest = was.digest;
  }
  std::vector<node_id> nodes;
  for (const auto& replica : was.replicas) nodes.push_back(then.nodes[replica.node].name);
  if (nodes.empty()) return wish;
  auto places = places_of(state, expert.id);
  std::ranges::sort(nodes);
  std::ranges::sort(places);
  if (nodes == places && wish.version == expert.version) return wish;
  wish.nodes = nodes;
  wish.replicas.reset();
  if (nodes.size() != state.settings.replication) wish.replicas = static_cast<std::uint32_t>(nodes.size());
  return wish;
}

// Would every row find its experts among those that took part then?
result<void> check_gates(const cluster_state& state, const cluster_map& then) {
  for (const auto& [layer, gate] : state.settings.gates) {
    auto mask = then.gate_mask(layer);
    if (mask.empty()) continue;
    if (auto enough = model::check_mask(gate, mask); !enough)
      return fail(errc::conflict, fmt::format("epoch {} masked too many experts of layer {}: {}", then.epoch.value,
                                              to_string(layer), enough.error().message));
  }
  return {};
}

result<wish_change> change_of(const cluster_state& state, const apply_placement::placed_expert& placed) {
  auto expert = expert_commands::known_expert(state, placed.expert);
  if (!expert) return fail(expert.error());
  const auto name = to_string(placed.expert);
  if (placed.nodes.empty() || placed.nodes.size() > limits::replicas_per_expert_max)
    return fail(errc::invalid_request, fmt::format("expert {}: {} nodes are not in 1-{}", name, placed.nodes.size(),
                                                   limits::replicas_per_expert_max));
  if (!is_present(**expert))
    return fail(errc::conflict, fmt::format("expert {} takes no part; add or restore it", name));
  if ((*expert)->wish.pinned)
    return fail(errc::conflict, fmt::format("expert {} is pinned; unpin it first: troupe expert unpin {}", name, name));
  std::set<node_id> distinct;
  for (const auto& node : placed.nodes) {
    if (!distinct.insert(node).second)
      return fail(errc::invalid_request, fmt::format("expert {} is to be on {} twice", name, node.value));
    auto at = state.nodes.find(node);
    if (at == state.nodes.end() || at->second.removed)
      return fail(errc::not_found, fmt::format("no node {}", node.value));
    if (!takes_work(at->second))
      return fail(errc::conflict,
                  fmt::format("{} is {} and takes no experts", node.value, troupe::to_string(shown_state(at->second))));
  }
  wish_change change{placed.expert, wish_to_return_to(**expert), wish_to_return_to(**expert)};
  change.after.nodes = placed.nodes;
  change.after.replicas.reset();
  if (placed.nodes.size() != state.settings.replication)
    change.after.replicas = static_cast<std::uint32_t>(placed.nodes.size());
  return change;
}

// Every node has room for what it is to hold in the end.
result<void> check_slots(const cluster_state& state, const std::vector<wish_change>& changes) {
  std::map<node_id, std::int64_t> used;
  for (const auto& [name, node] : state.nodes) used[name] = static_cast<std::int64_t>(node.slots.size());
  for (const auto& change : changes) {
    for (const auto& name : places_of(state, change.expert)) --used[name];
    for (const auto& name : change.after.nodes) ++used[name];
  }
  for (const auto& change : changes) {
    for (const auto& name : change.after.nodes) {
      auto total = state.nodes.at(name).facts.slots_total;
      if (used[name] <= static_cast<std::int64_t>(total)) continue;
      return fail(errc::conflict,
                  fmt::format("{} would need {} slots and has {}; the placement has changed since the plan, or is too "
                              "large: plan again",
                              name.value, used[name], total));
    }
  }
  return {};
}

// Replicas make room for each other, but not when nobody can begin.
result<void> check_begin(const cluster_state& state, const std::vector<wish_change>& changes) {
  bool anything_loads = false;
  for (const auto& change : changes) {
    anything_loads = anything_loads || loads_of(state, change) > 0;
    if (places_of(state, change.expert).size() > change.after.nodes.size()) return {};
  }
  if (!anything_loads || free_slots(state, 1) > 0) return {};
  return fail(errc::conflict,
              "experts change places through a free slot of any node, and every slot is in use; give the nodes more "
              "slots, or prune an expert");
}

}  // namespace

result<void> check_alone(const cluster_state& state) {
  const auto is_one = [](const operation_record& operation) {
    return operation.state == operation_state::running && !operation.changes.empty();
  };
  if (find_in_flight<operation_record>(state, is_one) != nullptr)
    return fail(errc::in_progress, "an operation on many experts is being written; repeat it");
  for (const auto& [number, operation] : state.operations) {
    if (!is_one(operation)) continue;
    return fail(errc::conflict, fmt::format("{} ({} {}) is under way; wait for it, or cancel it: troupe op cancel {}",
                                            operation_name(number), to_string(operation.kind), operation.subject,
                                            operation_name(number)));
  }
  return {};
}

result<decision> check(const cluster_state& state, const refresh_weights& what) {
  if (what.folder.empty() || what.folder.front() != '/')
    return fail(errc::invalid_request, "a refresh needs the absolute path of a checkpoint folder: --from DIR");
  if (what.layer) {
    if (auto known = expert_commands::known_expert(state, {*what.layer, 0}); !known) return fail(known.error());
  }
  if (!what.found) return fail(what.found.error());
  if (auto alone = check_alone(state); !alone) return fail(alone.error());
  auto version = versions::next(state);
  auto changes = changes_of(state, what, version);
  if (!changes) return fail(changes.error());
  if (changes->empty())
    return nothing_to_do(operation_kind::refresh,
                         fmt::format("the experts in {} are those that are served; nothing to do", what.folder));
  command_outcome outcome;
  outcome.message = fmt::format("{} experts of {} layers go over to version {}, layer by layer", changes->size(),
                                layers_in(*changes), version.value);
  source_record source{version, what.folder, state.last_operation + 1, static_cast<std::uint32_t>(changes->size())};
  operation_record operation;
  operation.kind = operation_kind::refresh;
  operation.subject = what.folder;
  operation.changes = std::move(*changes);
  auto decided = begin(state, std::move(operation), std::move(outcome));
  if (decided) decided->records.emplace_back(std::move(source));
  return decided;
}

result<decision> check(const cluster_state& state, const roll_back_placement& what) {
  auto then = state.history.map_of(what.epoch);
  if (then == nullptr) {
    auto [oldest, newest] = state.history.maps_kept();
    return fail(errc::not_found,
                newest.value == 0
                    ? fmt::format("epoch {} is not remembered: none was published yet", what.epoch.value)
                    : fmt::format("epoch {} is not remembered; there are {}-{}, see troupe placement history",
                                  what.epoch.value, oldest.value, newest.value));
  }
  if (auto alone = check_alone(state); !alone) return fail(alone.error());
  if (auto enough = check_gates(state, *then); !enough) return fail(enough.error());
  operation_record operation;
  operation.kind = operation_kind::rollback;
  operation.subject = fmt::format("epoch {}", what.epoch.value);
  for (const auto& expert : state.experts) {
    const auto* was = then->find(expert.id);
    if (was == nullptr) continue;
    auto before = wish_to_return_to(expert);
    auto after = wish_of(state, expert, *then, *was);
    if (!(after == before)) operation.changes.push_back({expert.id, std::move(before), std::move(after)});
  }
  if (operation.changes.empty())
    return nothing_to_do(operation_kind::rollback,
                         fmt::format("the placement is that of epoch {} already", what.epoch.value));
  command_outcome outcome;
  outcome.message = fmt::format("{} experts go back to where and what they were in epoch {}", operation.changes.size(),
                                what.epoch.value);
  return begin(state, std::move(operation), std::move(outcome));
}

result<decision> check(const cluster_state& state, const apply_placement& what) {
  if (what.experts.empty()) return fail(errc::invalid_request, "no expert is named");
  if (auto alone = check_alone(state); !alone) return fail(alone.error());
  operation_record operation;
  operation.kind = operation_kind::apply;
  for (const auto& placed : what.experts) {
    auto change = change_of(state, placed);
    if (!change) return fail(change.error());
    if (!(change->after == change->before)) operation.changes.push_back(*std::move(change));
  }
  if (operation.changes.empty())
    return nothing_to_do(operation_kind::apply, "the experts are wanted where the plan has them already");
  std::ranges::sort(operation.changes, {}, &wish_change::expert);
  const auto is_same = [](const auto& a, const auto& b) { return a.expert == b.expert; };
  if (auto twice = std::ranges::adjacent_find(operation.changes, is_same); twice != operation.changes.end())
    return fail(errc::invalid_request, fmt::format("expert {} is named twice", to_string(twice->expert)));
  if (auto enough = check_slots(state, operation.changes); !enough) return fail(enough.error());
  if (auto can = check_begin(state, operation.changes); !can) return fail(can.error());
  operation.subject = fmt::format("{} experts", operation.changes.size());
  command_outcome outcome;
  outcome.message = fmt::format("{} experts go to where the plan has them", operation.changes.size());
  return begin(state, std::move(operation), std::move(outcome));
}

}  // namespace troupe::coordinator::bulk_commands
