#include <algorithm>

#include "coordinator/core/operations.hpp"
#include "coordinator/core/reconciler.hpp"

// In which order, and how many at a time, an operation on many experts makes its changes. Nothing of it is kept: what
// the experts' wishes are says how far it is.
namespace troupe::coordinator::operations {
namespace {

const expert_wish& wish_of(const operation_record& operation, const wish_change& change) {
  return operation.cancelling ? change.before : change.after;
}

// Of the change at `i`: where its layer begins and ends.
std::pair<std::size_t, std::size_t> layer_around(std::span<const wish_change> changes, std::size_t i) {
  const auto layer = changes[i].expert.layer;
  const auto layer_of = [](const wish_change& change) { return change.expert.layer; };
  return {static_cast<std::size_t>(std::ranges::lower_bound(changes, layer, {}, layer_of) - changes.begin()),
          static_cast<std::size_t>(std::ranges::upper_bound(changes, layer, {}, layer_of) - changes.begin())};
}

std::vector<wish_record> wishes_of(const operation_record& operation, std::span<const wish_change> changes) {
  std::vector<wish_record> wishes;
  for (const auto& change : changes) wishes.push_back({change.expert, wish_of(operation, change)});
  return wishes;
}

enum class places : std::uint8_t { kept, any };

// Where the new replicas must be: nodes that the operation names or, where places are kept, those that the planner
// would choose before others (an operator's, and where the expert is).
std::span<const std::uint32_t> nodes_to_meet(const planner_expert& expert, const wish_change& change, places where) {
  std::span<const std::uint32_t> chosen{expert.chosen};
  if (where == places::kept) return chosen;
  return change.before.nodes == change.after.nodes ? chosen.first(0) : chosen;
}

// Would the plan give each of these experts all the replicas that it is to have?
bool find_room(const cluster_state& state, const operation_record& operation, std::span<const wish_change> changes,
               places where) {
  const auto view = reconciler::planner_view(state, wishes_of(operation, changes));
  const auto plan = plan_placement(view);
  return std::ranges::all_of(changes, [&](const wish_change& change) {
    if (wish_of(operation, change).presence != expert_presence::active) return true;
    const auto at = std::ranges::lower_bound(view.experts, change.expert, {}, &planner_expert::id);
    if (at == view.experts.end() || at->id != change.expert) return true;
    const auto& planned = plan.wanted[static_cast<std::size_t>(at - view.experts.begin())];
    const auto wanted = at->count.value_or(view.replication);
    const auto needed = std::clamp<std::size_t>(places_of(state, change.expert).size(), 1, std::max(wanted, 1U));
    if (planned.size() < needed) return false;
    const auto nodes = nodes_to_meet(*at, change, where);
    return std::ranges::all_of(nodes.first(std::min<std::size_t>(nodes.size(), needed)), [&](std::uint32_t n) {
      return !view.nodes[n].accepts || std::ranges::find(planned, n) != planned.end();
    });
  });
}

}  // namespace

course course_of(const cluster_state& state, const operation_record& operation) {
  const std::span<const wish_change> all{operation.changes};
  const auto is_wished = [&](const wish_change& change) {
    const auto* expert = state.find(change.expert);
    return expert == nullptr || expert->wish == wish_of(operation, change);
  };
  course at;
  if (!operation.cancelling) {
    at.begun = static_cast<std::size_t>(std::ranges::find_if_not(all, is_wished) - all.begin());
    if (at.begun > 0) {
      const auto first = layer_around(all, at.begun - 1).first;
      at.newest = all.subspan(first, at.begun - first);
    }
    if (at.begun < all.size()) at.rest = all.subspan(at.begun, layer_around(all, at.begun).second - at.begun);
    return at;
  }
  at.begun = static_cast<std::size_t>(std::find_if_not(all.rbegin(), all.rend(), is_wished) - all.rbegin());
  const auto border = all.size() - at.begun;
  if (at.begun > 0) at.newest = all.subspan(border, layer_around(all, border).second - border);
  if (border > 0) {
    const auto first = layer_around(all, border - 1).first;
    at.rest = all.subspan(first, border - first);
  }
  return at;
}

std::vector<wish_record> next_batch(const cluster_state& state, const operation_record& operation,
                                    std::span<const wish_change> rest) {
  const auto part = [&](std::size_t count) { return operation.cancelling ? rest.last(count) : rest.first(count); };
  if (!operation.in_batches || find_room(state, operation, rest, places::any)) return wishes_of(operation, rest);
  if (!find_room(state, operation, part(1), places::any)) return {};
  for (auto where : {places::kept, places::any}) {
    std::size_t fits = 0;
    for (auto too_many = rest.size(); too_many - fits > 1;) {
      const auto middle = fits + (too_many - fits) / 2;
      (find_room(state, operation, part(middle), where) ? fits : too_many) = middle;
    }
    if (fits > 0) return wishes_of(operation, part(fits));
  }
  return wishes_of(operation, part(1));
}

}  // namespace troupe::coordinator::operations
