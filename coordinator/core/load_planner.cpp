#include "coordinator/core/load_planner.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <tuple>
#include <utility>

#include "coordinator/core/relief_search.hpp"

namespace troupe::coordinator {
namespace {

constexpr std::uint32_t nothing = no_expert;
constexpr double even_target = 1e-3;  // worth changing counts for
// Of the mean time. With a placement, less is not worth a move: a part of what the replicas of a node differ by, which
// falls with the square of how many there are. Without one, it is beyond what anybody can measure.
constexpr double even_enough_to_stay = 0.025, even_enough = 1e-6;
// Layers with many slots take long and gain little by another try.
constexpr std::size_t tries_max = 16, slots_of_all_tries = 4096;

}  // namespace

std::string_view to_string(load_move::why reason) {
  switch (reason) {
    case load_move::why::cover:
      return "the expert is served nowhere";
    case load_move::why::replicate:
      return "a further replica takes its part of the load";
    case load_move::why::migrate:
      return "from a fuller node to an emptier one";
  }
  return "unknown";
}

load_planner::load_planner(std::vector<load_node> nodes, load_planner_settings settings)
    : settings_{settings}, layer_{std::move(nodes)} {}

layer_plan load_planner::plan(std::span<const double> loads, std::span<const std::uint32_t> present) {
  assert(!loads.empty() && loads.size() <= layer_.slots());
  layer_.begin(loads, present);
  layer_plan plan;
  const bool had_placement = std::ranges::any_of(present, [](auto e) { return e != no_expert; });
  moves_max_ = had_placement ? settings_.moves_max : -1;
  if (had_placement) {
    plan.imbalance_before = layer_.imbalance();
    cover();
    // Without a limit, even_out finds the rest faster.
    const double target = settings_.imbalance_target * (moves_max_ < 0 ? 2 : 1);
    relieve(target);
    if (fill()) relieve(target);
  } else {
    place_all();
    fill();
    relieve(settings_.imbalance_target);
  }
  if (moves_max_ < 0) {
    const double own_slots = static_cast<double>(layer_.slots()) / layer_.nodes();
    const double enough = had_placement ? even_enough_to_stay / (own_slots * own_slots) : even_enough;
    even_out(enough);
    try_others(enough);
  }
  fill();  // slots that became free on a node which had more of them than there are experts
  plan.imbalance_after = layer_.imbalance();
  plan.expert_of_slot = layer_.slots_after(present);
  if (had_placement) plan.moves = list_moves(present, plan.expert_of_slot);
  plan.bytes = plan.moves.size() * settings_.expert_bytes;
  return plan;
}

std::int64_t load_planner::moves_left() const {
  if (moves_max_ < 0) return std::numeric_limits<std::int64_t>::max();
  return std::max<std::int64_t>(0, moves_max_ - layer_.moves());
}

// Replicas go one by one to the expert whose replicas are fullest; the fullest are placed first.
void load_planner::place_all() {
  const auto experts = layer_.experts();
  std::vector<std::uint32_t> count(experts, 1);
  auto share = [&](std::uint32_t e) { return layer_.weight(e) / count[e]; };
  auto emptier = [&](std::uint32_t a, std::uint32_t b) {
    return std::tuple(share(a), count[b], b) < std::tuple(share(b), count[a], a);
  };
  order_.resize(experts);
  std::iota(order_.begin(), order_.end(), 0U);
  std::ranges::make_heap(order_, emptier);
  auto heap_end = order_.end();
  for (auto extra = layer_.slots() - experts; extra > 0 && heap_end != order_.begin();) {
    std::pop_heap(order_.begin(), heap_end, emptier);
    const auto e = *(heap_end - 1);
    if (count[e] == layer_.nodes()) {  // on every node already
      --heap_end;
      continue;
    }
    ++count[e];
    --extra;
    std::push_heap(order_.begin(), heap_end, emptier);
  }
  std::ranges::sort(order_, [&](auto a, auto b) { return emptier(b, a); });

  for (auto e : order_) {
    layer_.expect(e, count[e]);
    for (std::uint32_t replica = 0; replica < count[e]; ++replica) {
      std::uint32_t best = nothing;
      for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
        if (!layer_.has_empty(n) || (best != nothing && layer_.time(n) >= layer_.time(best))) continue;
        if (layer_.may_hold(n, e)) best = n;
      }
      if (best == nothing) break;  // the slots that are left are on its nodes
      layer_.place(best, e);
    }
    layer_.set_share(e);
  }
}

// Experts without replica: into an empty slot of the emptiest node, else in the place of a spare replica.
void load_planner::cover() {
  for (std::uint32_t e = 0; e < layer_.experts(); ++e) {
    if (layer_.count(e) > 0) continue;
    std::tuple<bool, double, std::uint32_t, std::uint32_t> best{true, 0, nothing, nothing};
    for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
      for (auto y : layer_.held_by(n)) {
        if (!layer_.is_spare(y)) continue;
        const bool is_taken = y != layer_.experts();
        const double others = is_taken ? layer_.weight(y) / (layer_.count(y) - 1) : 0;
        const std::tuple harm{is_taken, layer_.time(n) - layer_.share(y) + others, n, y};
        if (std::get<2>(best) == nothing || harm < best) best = harm;
      }
    }
    assert(std::get<2>(best) != nothing);
    layer_.replace(std::get<2>(best), std::get<3>(best), e);
  }
}

void load_planner::relieve(double wanted) {
  // A little below, so that rounding does not leave a layer a little above.
  const double target = wanted * 0.98;
  relief_search search{layer_, target};
  for (auto steps_left = 4 * layer_.slots(); steps_left > 0 && layer_.imbalance() > target; --steps_left) {
    const auto step = search.run(moves_left());
    if (!step.is_found() || step.worth < settings_.gain_min) return;
    if (step.other == nothing) {
      layer_.replace(step.node, step.gives, step.takes);
    } else {
      layer_.swap(step.node, step.gives, step.other, step.takes);
    }
  }
}

// The fullest node changes places with another so that the fuller one of the two gets as empty as possible. Where that
// ends too early, other counts of replicas may help on.
void load_planner::even_out(double enough) {
  swap_evenly(enough);
  if (layer_.imbalance() <= even_target) return;
  relieve(even_target);
  swap_evenly(enough);
}

// Where no step helps any more, two steps by chance and all that help after them may, which small layers need most.
void load_planner::try_others(double enough) {
  std::minstd_rand random{1};  // equal input, equal plan
  auto best = layer_;
  auto left = std::min<std::size_t>(tries_max, slots_of_all_tries / std::max<std::size_t>(layer_.slots(), 1));
  for (; left > 0 && best.imbalance() > even_target; --left) {
    layer_ = best;
    step_by_chance(random);
    step_by_chance(random);
    even_out(enough);
    if (layer_.imbalance() < best.imbalance() - even_enough) best = layer_;
  }
  layer_ = std::move(best);
}

// A spare replica gives its slot to another expert, or two replicas change places; half of the time on the fullest
// node.
void load_planner::step_by_chance(std::minstd_rand& random) {
  auto below = [&](std::size_t bound) { return static_cast<std::uint32_t>(random() % bound); };
  for (auto left = 8; left > 0; --left) {  // not each is allowed
    const auto node = below(2) == 0 ? layer_.fullest() : below(layer_.nodes());
    const auto gives = layer_.held_by(node)[below(layer_.held_by(node).size())];
    if (below(2) == 0 && gives != layer_.experts() && layer_.is_spare(gives)) {
      const auto takes = below(layer_.experts());
      if (!layer_.may_hold(node, takes)) continue;
      return layer_.replace(node, gives, takes);
    }
    const auto other = below(layer_.nodes());
    const auto takes = layer_.held_by(other)[below(layer_.held_by(other).size())];
    if (gives == takes || !layer_.may_swap(node, gives, other, takes)) continue;
    return layer_.swap(node, gives, other, takes);
  }
}

void load_planner::swap_evenly(double enough) {
  for (auto steps_left = 4 * layer_.slots(); steps_left > 0; --steps_left) {
    const auto hot = layer_.fullest();
    if (layer_.time(hot) < 1 + enough) return;
    evening best{layer_.time(hot) - enough / 10};
    const auto emptiest = layer_.emptiest();
    try_evening(hot, emptiest, best);  // most likely the best; the others then need no look
    for (std::uint32_t c = 0; c < layer_.nodes(); ++c) {
      if (c != hot && c != emptiest) try_evening(hot, c, best);
    }
    if (best.other == nothing) return;
    layer_.swap(hot, best.gives, best.other, best.takes);
  }
}

void load_planner::try_evening(std::uint32_t hot, std::uint32_t cold, evening& best) const {
  const double hot_time = layer_.time(hot), cold_time = layer_.time(cold);
  const double hot_slow = layer_.slowness(hot), cold_slow = layer_.slowness(cold);
  // At best both end alike. A search for little more than what is found already is not worth its time.
  const double alike = (hot_time * cold_slow + cold_time * hot_slow) / (hot_slow + cold_slow);
  if (best.fuller - alike <= 0.5 * (hot_time - best.fuller)) return;
  auto better = [&] { return load_range{(hot_time - best.fuller) / hot_slow, (best.fuller - cold_time) / cold_slow}; };
  auto wanted = better();
  for_pairs(layer_.shares_on(hot), layer_.shares_on(cold), wanted, [&](auto x, auto y, double moved) {
    const auto gives = layer_.held_by(hot)[x], takes = layer_.held_by(cold)[y];
    const double fuller = std::max(hot_time - moved * hot_slow, cold_time + moved * cold_slow);
    if (fuller >= best.fuller || !layer_.may_swap(hot, gives, cold, takes)) return;
    best = {fuller, cold, gives, takes};
    wanted = better();
  });
}

// A free slot takes the fullest replica that does not make its node the fullest; if there is none, the lightest.
bool load_planner::fill() {
  bool filled = false;
  for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
    while (layer_.has_empty(n) && moves_left() >= 1) {
      const double room = layer_.time(layer_.fullest()) - layer_.time(n);
      std::uint32_t best = nothing;
      auto rank = [&](std::uint32_t e) {
        const double added = layer_.weight(e) / (layer_.count(e) + 1) * layer_.slowness(n);
        return std::tuple(layer_.may_hold(n, e), added <= room, added <= room ? layer_.share(e) : -added);
      };
      for (std::uint32_t e = 0; e < layer_.experts(); ++e) {
        if (!layer_.holds(n, e) && (best == nothing || rank(e) > rank(best))) best = e;
      }
      if (best == nothing) break;  // the node has all of them
      layer_.replace(n, layer_.experts(), best);
      filled = true;
    }
  }
  return filled;
}

std::vector<load_move> load_planner::list_moves(std::span<const std::uint32_t> present,
                                                std::span<const std::uint32_t> after) const {
  struct replica {
    std::uint32_t node, expert;
  };
  std::vector<replica> given_up;
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    const replica old{layer_.node_of(slot), present[slot]};
    if (present[slot] == after[slot] || old.expert == no_expert || layer_.holds(old.node, old.expert)) continue;
    given_up.push_back(old);
  }
  auto dropped = given_up;
  auto take = [](std::vector<replica>& from, std::uint32_t replica::*what, std::uint32_t wanted) {
    const auto found = std::ranges::find(from, wanted, what);
    std::optional<replica> taken;
    if (found != from.end()) {
      taken = *found;
      from.erase(found);
    }
    return taken;
  };
  std::vector<load_move> moves;
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    const auto n = layer_.node_of(slot);
    const auto e = after[slot];
    if (e == present[slot] || e == no_expert) continue;
    const auto from = take(given_up, &replica::expert, e);
    const auto instead_of = take(dropped, &replica::node, n);
    load_move move{e, n, std::nullopt, std::nullopt, load_move::why::replicate};
    if (from) move.from = from->node;
    if (instead_of) move.instead_of = instead_of->expert;
    if (!layer_.was_served(e)) {
      move.reason = load_move::why::cover;
    } else if (from) {
      move.reason = load_move::why::migrate;
    }
    moves.push_back(move);
  }
  return moves;
}

}  // namespace troupe::coordinator
