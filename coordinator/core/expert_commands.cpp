#include "coordinator/core/expert_commands.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/operations.hpp"
#include "model/gating.hpp"

namespace troupe::coordinator::expert_commands {
namespace {

bool has_room(const node_entry& node) { return node.slots.size() < node.facts.slots_total; }

bool holds(const node_entry& node, const expert_id& expert) {
  return std::ranges::any_of(node.slots, [&](const auto& item) { return item.second.expert == expert; });
}

// One that takes part, so that it has replicas to move or to count.
result<const expert_entry*> present_expert(const cluster_state& state, const expert_id& id) {
  auto expert = free_expert(state, id);
  if (!expert || is_present(**expert)) return expert;
  bool is_pruned = (*expert)->wish.presence == expert_presence::pruned;
  return fail(errc::conflict, fmt::format("expert {} is {}; bring it {} first: troupe expert {} {}", to_string(id),
                                          is_pruned ? "pruned" : "not added yet", is_pruned ? "back" : "in",
                                          is_pruned ? "restore" : "add", to_string(id)));
}

result<const node_entry*> target_node(const cluster_state& state, const node_id& name, const expert_id& expert) {
  auto at = state.nodes.find(name);
  if (at == state.nodes.end() || at->second.removed) {
    std::vector<node_id> others;
    for (const auto& [other, node] : state.nodes) {
      if (node.is_expert() && !node.removed) others.push_back(other);
    }
    return fail(errc::not_found, fmt::format("no node {}; there are {}", name.value, names(others)));
  }
  const auto& node = at->second;
  if (!node.is_expert())
    return fail(errc::invalid_request, fmt::format("{} is a router and holds no experts", name.value));
  if (!takes_work(node)) {
    return fail(errc::conflict, fmt::format("{} is {} and takes no experts; choose another node", name.value,
                                            troupe::to_string(shown_state(node))));
  }
  if (holds(node, expert)) {
    return fail(errc::conflict, fmt::format("{} has expert {} already, or is freeing it; see troupe expert show {}",
                                            name.value, to_string(expert), to_string(expert)));
  }
  if (!has_room(node)) {
    return fail(errc::conflict, fmt::format("all {} slots of {} are in use; move another expert off it first",
                                            node.facts.slots_total, name.value));
  }
  return &node;
}

// The same command a second time.
bool is_there_already(const cluster_state& state, const migrate_expert& what, const std::vector<node_id>& places) {
  const auto target = state.nodes.find(what.to);
  if (what.from || target == state.nodes.end() || !takes_work(target->second)) return false;
  return places.size() == 1 && places.front() == what.to;
}

result<node_id> source_of(const cluster_state& state, const migrate_expert& what, const std::vector<node_id>& places) {
  if (places.empty()) {
    return fail(errc::conflict,
                fmt::format("expert {} is on no node, so there is nothing to migrate", to_string(what.expert)));
  }
  if (what.from) {
    if (std::ranges::find(places, *what.from) != places.end()) return *what.from;
    return fail(errc::conflict, fmt::format("{} has no replica of expert {}; it is on {}", what.from->value,
                                            to_string(what.expert), names(places)));
  }
  auto fullness = [&](const node_id& name) {
    auto at = state.nodes.find(name);
    if (at == state.nodes.end() || at->second.facts.slots_total == 0) return 1.0;
    return static_cast<double>(at->second.slots.size()) / at->second.facts.slots_total;
  };
  return *std::ranges::max_element(places, {}, fullness);
}

std::string mebibytes(std::uint64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

operation_record operation_on(const cluster_state& state, const expert_entry& expert, operation_kind kind,
                              std::vector<node_id> places) {
  operation_record operation;
  operation.number = state.last_operation + 1;
  operation.kind = kind;
  operation.expert = expert.id;
  operation.from = std::move(places);
  operation.replicas_before = operation.replicas_after = wanted_replicas(state, expert);
  operation.before = expert.wish;
  return operation;
}

command_outcome answer(std::string_view verb, const expert_id& expert) {
  command_outcome outcome;
  outcome.verb = verb;
  outcome.expert = to_string(expert);
  outcome.state = "running";
  return outcome;
}

decision begin(command_outcome outcome, operation_record operation, expert_wish wish) {
  outcome.operation = operation_name(operation.number);
  wish_record wished{operation.expert, std::move(wish)};
  return {std::move(outcome), {std::move(operation), std::move(wished)}};
}

}  // namespace

result<const expert_entry*> known_expert(const cluster_state& state, const expert_id& id) {
  if (const auto* expert = state.find(id)) return expert;
  auto in_layer = std::ranges::count_if(state.experts, [&](const auto& e) { return e.id.layer == id.layer; });
  if (in_layer == 0)
    return fail(errc::not_found, fmt::format("no expert {}; layer {} is no MoE layer, see troupe expert list",
                                             to_string(id), to_string(id.layer)));
  return fail(errc::not_found,
              fmt::format("no expert {}; layer {} has experts 0-{}", to_string(id), to_string(id.layer), in_layer - 1));
}

result<const expert_entry*> free_expert(const cluster_state& state, const expert_id& id) {
  auto expert = known_expert(state, id);
  if (!expert) return expert;
  if (const auto* other = operations::running_on(state, id)) {
    return fail(errc::conflict,
                fmt::format("{} is under way on expert {} ({}); wait for it, or cancel it: troupe op cancel {}",
                            operation_name(other->number), to_string(id), to_string(other->kind),
                            operation_name(other->number)));
  }
  if (find_in_flight<wish_record>(state, [&](const auto& wish) { return wish.expert == id; }) != nullptr) {
    return fail(errc::in_progress, fmt::format("a change of expert {} is being written; repeat it", to_string(id)));
  }
  if (operations::running(state) >= limits::operations_running_max) {
    return fail(errc::overloaded,
                fmt::format("{} operations are under way; wait until some are done", limits::operations_running_max));
  }
  return expert;
}

result<decision> check(const cluster_state& state, const migrate_expert& what) {
  auto expert = present_expert(state, what.expert);
  if (!expert) return fail(expert.error());
  auto places = places_of(state, what.expert);
  if (is_there_already(state, what, places)) {
    auto outcome = answer("migrate", what.expert);
    outcome.node = what.to;
    outcome.state = "done";
    outcome.message = fmt::format("expert {} is on {} already", to_string(what.expert), what.to.value);
    return decision{std::move(outcome), {}};
  }
  auto target = target_node(state, what.to, what.expert);
  if (!target) return fail(target.error());
  if ((*expert)->wish.pinned) {
    return fail(errc::conflict,
                fmt::format("expert {} is pinned to {}; unpin it first: troupe expert unpin {}", to_string(what.expert),
                            names((*expert)->wish.nodes), to_string(what.expert)));
  }
  auto source = source_of(state, what, places);
  if (!source) return fail(source.error());
  auto operation = operation_on(state, **expert, operation_kind::migrate, places);
  operation.node = what.to;
  auto wish = (*expert)->wish;
  wish.nodes = {what.to};
  std::ranges::copy_if(places, std::back_inserter(wish.nodes), [&](const node_id& n) { return n != *source; });
  auto outcome = answer("migrate", what.expert);
  outcome.node = what.to;
  outcome.replicas_to_move = 1;
  outcome.bytes_to_move = (*expert)->bundle_bytes;
  outcome.message = fmt::format("expert {} ({}) is copied to {}, then freed on {}", to_string(what.expert),
                                mebibytes(outcome.bytes_to_move), what.to.value, source->value);
  return begin(std::move(outcome), std::move(operation), std::move(wish));
}

result<decision> check(const cluster_state& state, const replicate_expert& what) {
  auto expert = present_expert(state, what.expert);
  if (!expert) return fail(expert.error());
  if (what.count == 0 || what.count > limits::replicas_per_expert_max) {
    return fail(errc::invalid_request,
                fmt::format("{} replicas are not in 1-{}", what.count, limits::replicas_per_expert_max));
  }
  auto outcome = answer("replicate", what.expert);
  auto operation = operation_on(state, **expert, operation_kind::replicate, places_of(state, what.expert));
  operation.replicas_after = what.count;
  if (operation.replicas_before == what.count) {
    outcome.state = "done";
    outcome.message = fmt::format("{} replicas of expert {} are wanted already", what.count, to_string(what.expert));
    return decision{std::move(outcome), {}};
  }
  std::size_t nodes = 0;
  std::size_t can_hold = 0;
  for (const auto& [name, node] : state.nodes) {
    if (!takes_work(node)) continue;
    ++nodes;
    if (holds(node, what.expert) || has_room(node)) ++can_hold;
  }
  if (what.count > nodes) {
    return fail(errc::conflict,
                fmt::format("{} replicas need as many nodes, {} take experts; add nodes first", what.count, nodes));
  }
  auto has = operation.from.size();
  if (what.count > has && what.count > can_hold) {
    return fail(errc::conflict,
                fmt::format("only {} nodes have expert {} or a free slot for it, {} are needed; free some slots first",
                            can_hold, to_string(what.expert), what.count));
  }
  auto wish = (*expert)->wish;
  wish.replicas = what.count;
  if (what.count == state.settings.replication) wish.replicas.reset();
  outcome.replicas_to_move = static_cast<std::uint32_t>(what.count > has ? what.count - has : 0);
  outcome.bytes_to_move = outcome.replicas_to_move * (*expert)->bundle_bytes;
  outcome.message = fmt::format("expert {} goes from {} to {} replicas; {} are copied", to_string(what.expert), has,
                                what.count, mebibytes(outcome.bytes_to_move));
  return begin(std::move(outcome), std::move(operation), std::move(wish));
}

result<decision> check(const cluster_state& state, const pin_expert& what) {
  auto expert = free_expert(state, what.expert);
  if (!expert) return fail(expert.error());
  auto outcome = answer(what.pinned ? "pin" : "unpin", what.expert);
  outcome.state = "done";
  auto wish = (*expert)->wish;
  wish.pinned = what.pinned;
  wish.nodes.clear();
  if (!what.pinned && wish == (*expert)->wish) {
    outcome.message = fmt::format("expert {} is not pinned", to_string(what.expert));
    return decision{std::move(outcome), {}};
  }
  if (what.pinned) {
    wish.nodes = places_of(state, what.expert);
    if (wish.nodes.empty()) {
      return fail(errc::conflict,
                  fmt::format("expert {} is on no node, so there is nothing to pin it to", to_string(what.expert)));
    }
    outcome.message = fmt::format("expert {} stays on {}", to_string(what.expert), names(wish.nodes));
  } else {
    outcome.message = fmt::format("the planner may move expert {}", to_string(what.expert));
  }
  return decision{std::move(outcome), {wish_record{what.expert, std::move(wish)}}};
}

namespace {

// Would every row still find its k experts without this one?
result<void> check_layer_without(const cluster_state& state, const expert_id& without) {
  auto gate = state.settings.gates.find(without.layer);
  if (gate == state.settings.gates.end()) return {};
  std::vector<std::uint8_t> mask;
  for (const auto& expert : state.experts) {
    if (expert.id.layer == without.layer) mask.push_back(is_present(expert) && expert.id != without ? 1 : 0);
  }
  auto enough = model::check_mask(gate->second, mask);
  if (enough) return {};
  auto left = std::ranges::count(mask, 1);
  return fail(errc::conflict,
              fmt::format("without expert {} only {} of layer {} are left, too few for the {} that a row "
                          "needs{}; restore or add another one first",
                          to_string(without), left, to_string(without.layer), gate->second.top_k,
                          gate->second.num_groups > 1 ? " in the groups that it keeps" : ""));
}

// Nothing to do, or why the verb does not fit what the expert is.
result<std::string> check_verb(const expert_entry& expert, change_presence::verb what) {
  using verb = change_presence::verb;
  const auto name = to_string(expert.id);
  const auto presence = expert.wish.presence;
  if (what == verb::prune && presence == expert_presence::pruned)
    return fmt::format("expert {} is pruned already", name);
  if (what != verb::prune && presence == expert_presence::active)
    return fmt::format("expert {} takes part already", name);
  if (what == verb::restore && presence == expert_presence::dormant)
    return fail(errc::conflict,
                fmt::format("expert {} was never pruned, it is not added yet: troupe expert add {}", name, name));
  if (what == verb::add && presence == expert_presence::pruned)
    return fail(errc::conflict,
                fmt::format("expert {} is pruned; bring it back: troupe expert restore {}", name, name));
  return std::string();
}

}  // namespace

operation_kind kind_of(change_presence::verb what) {
  constexpr operation_kind kinds[] = {operation_kind::prune, operation_kind::restore, operation_kind::add};
  return kinds[static_cast<std::size_t>(what)];
}

result<decision> check(const cluster_state& state, const change_presence& what) {
  using verb = change_presence::verb;
  auto expert = free_expert(state, what.expert);
  if (!expert) return fail(expert.error());
  auto kind = kind_of(what.what);
  auto outcome = answer(to_string(kind), what.expert);
  auto nothing_to_do = check_verb(**expert, what.what);
  if (!nothing_to_do) return fail(nothing_to_do.error());
  if (!nothing_to_do->empty()) {
    outcome.state = "done";
    outcome.message = *nothing_to_do;
    return decision{std::move(outcome), {}};
  }
  auto wish = (*expert)->wish;
  auto places = places_of(state, what.expert);
  auto operation = operation_on(state, **expert, kind, places);
  if (what.what == verb::prune) {
    if (wish.pinned) {
      return fail(errc::conflict, fmt::format("expert {} is pinned; unpin it first: troupe expert unpin {}",
                                              to_string(what.expert), to_string(what.expert)));
    }
    if (auto enough = check_layer_without(state, what.expert); !enough) return fail(enough.error());
    wish.presence = expert_presence::pruned;
    wish.pruned_by_policy = what.by_policy;
    // It comes back to where it was: which experts share a node decides in which order a row is summed, so elsewhere
    // the same weights would give other last bits.
    if (wish.nodes.empty()) wish.nodes = places;
    operation.replicas_after = 0;
    outcome.message =
        fmt::format("rows that would choose expert {} choose another one; {} replicas are freed ({})",
                    to_string(what.expert), places.size(), mebibytes(places.size() * (*expert)->bundle_bytes));
    return begin(std::move(outcome), std::move(operation), std::move(wish));
  }
  auto can_hold = [&](const auto& item) {
    return takes_work(item.second) && (has_room(item.second) || holds(item.second, what.expert));
  };
  if (std::ranges::none_of(state.nodes, can_hold)) {
    return fail(errc::conflict,
                fmt::format("no node has a free slot for expert {}; free one, or add a node", to_string(what.expert)));
  }
  wish.presence = expert_presence::active;
  wish.pruned_by_policy = false;
  operation.replicas_after = wish.replicas.value_or(state.settings.replication);
  outcome.replicas_to_move = operation.replicas_after;
  outcome.bytes_to_move = operation.replicas_after * (*expert)->bundle_bytes;
  outcome.message = fmt::format("expert {} is loaded ({}), then rows may choose it", to_string(what.expert),
                                mebibytes(outcome.bytes_to_move));
  return begin(std::move(outcome), std::move(operation), std::move(wish));
}

result<const operation_record*> find_operation(const cluster_state& state, const std::string& name) {
  std::uint64_t number = 0;
  if (name.starts_with("op-")) std::from_chars(name.data() + 3, name.data() + name.size(), number);
  auto at = state.operations.find(number);
  if (at == state.operations.end() || operation_name(number) != name) {
    return fail(errc::not_found, fmt::format("no operation {}; see: troupe op list", name));
  }
  return &at->second;
}

result<decision> check_cancel(const operation_record& operation) {
  command_outcome outcome;
  outcome.operation = operation_name(operation.number);
  outcome.verb = "cancel";
  outcome.node = operation.node;
  bool is_many = !operation.changes.empty();
  if (operation.kind != operation_kind::drain && !is_many) outcome.expert = to_string(operation.expert);
  if (operation.state == operation_state::cancelled) {
    outcome.state = "done";
    outcome.message = fmt::format("{} is cancelled already", outcome.operation);
    return decision{std::move(outcome), {}};
  }
  if (operation.state != operation_state::running) {
    return fail(errc::conflict,
                fmt::format("{} is {}, so it cannot be cancelled", outcome.operation, to_string(operation.state)));
  }
  outcome.state = "running";
  outcome.message =
      is_many ? fmt::format("{} goes back, layer by layer", outcome.operation)
              : fmt::format("{} goes back: expert {} on {}", outcome.operation, outcome.expert, names(operation.from));
  if (operation.cancelling) return decision{std::move(outcome), {}};
  auto cancelling = operation;
  cancelling.cancelling = true;
  cancelling.reason = "cancelled by an operator";
  if (is_many) return decision{std::move(outcome), {std::move(cancelling)}};
  auto back = operations::way_back(operation);
  return decision{std::move(outcome), {std::move(cancelling), wish_record{operation.expert, std::move(back)}}};
}

}  // namespace troupe::coordinator::expert_commands
