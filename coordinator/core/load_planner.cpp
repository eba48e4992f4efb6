#include "coordinator/core/load_planner.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>
#include <tuple>
#include <utility>

namespace troupe::coordinator {
namespace {

constexpr std::uint32_t nothing = no_expert;
constexpr double even_target = 1e-3;  // worth changing counts for
constexpr double even_enough = 1e-6;  // of the mean time: beyond what anybody can measure

// The search for the step that relieves the fullest node best. It looks at the steps of this node only: whatever is
// above the target has its turn as the fullest.
class relief_search {
 public:
  relief_search(const layer_balance& layer, double target)
      : layer_{layer}, target_{1 + target}, excess_(layer.nodes()) {
    for (std::uint32_t e = 1; e < layer.experts(); ++e) {
      if (layer.weight(e) < layer.weight(lightest_)) lightest_ = e;
    }
    for (std::uint32_t n = 0; n < layer.nodes(); ++n) slowest_ = std::max(slowest_, layer.slowness(n));
  }

  struct step {
    double worth{};  // what is taken away from the excess, per move
    std::uint32_t slot{nothing};
    std::uint32_t other_slot{nothing};  // changes places with `slot`
    std::uint32_t expert{nothing};      // or takes `slot`
  };

  // `moves_left`: what the step may cost.
  step run(std::int64_t moves_left) {
    moves_left_ = moves_left;
    hot_ = layer_.fullest();
    best_ = {};
    for (std::uint32_t n = 0; n < layer_.nodes(); ++n) excess_[n] = excess(layer_.time(n));
    weigh_replicas();
    weigh_giving_up(target_);
    const auto emptiest = layer_.emptiest();
    if (layer_.time(emptiest) < target_) try_swaps(emptiest);  // it most likely sets a bound for the others
    for (std::uint32_t c = 0; c < layer_.nodes(); ++c) {
      if (c != hot_ && c != emptiest && layer_.time(c) < target_) try_swaps(c);
    }
    if (best_.slot == nothing) weigh_giving_up(0);
    return best_;
  }

 private:
  struct candidate {
    std::uint32_t expert;
    double gain;  // of one more replica, on the nodes that have it
  };

  // What a node has too much. The small second part prefers, among steps that are equally good otherwise, those that
  // leave the nodes more alike, so that later steps find room.
  [[nodiscard]] double excess(double time) const { return std::max(0.0, time - target_) + alike_ * time * time; }
  [[nodiscard]] double relief(std::uint32_t n, double change) const {
    return excess_[n] - excess(layer_.time(n) + change * layer_.slowness(n));
  }

  void try_swaps(std::uint32_t c) {
    const double hot_time = layer_.time(hot_), cold_time = layer_.time(c);
    const double most = std::min(hot_time - target_, target_ - cold_time);
    const double gap = hot_time - cold_time;
    const double price_min = layer_.is_changed(hot_) || layer_.is_changed(c) ? price_floor_
                             : layer_.has_empty(c)                           ? 1
                                                                             : 2;
    // No step with this node can be better than that.
    if (most + alike_ * gap * gap / 2 <= price_min * best_.worth * enough_better_) return;
    const double hot_slow = layer_.slowness(hot_), cold_slow = layer_.slowness(c);
    const double before = excess(hot_time) + excess(cold_time);
    const auto hot_shares = layer_.shares_on(hot_);
    const auto cold_shares = layer_.shares_on(c);
    double bound = price_min * best_.worth;
    for (std::uint32_t x = 0; x < hot_shares.size(); ++x) {
      for (std::uint32_t y = 0; y < cold_shares.size(); ++y) {
        const double moved = hot_shares[x] - cold_shares[y];
        const double gain = before - excess(hot_time - moved * hot_slow) - excess(cold_time + moved * cold_slow);
        if (gain <= bound) continue;
        offer_swap(layer_.first_slot(hot_) + x, layer_.first_slot(c) + y, gain);
        bound = price_min * best_.worth;
      }
    }
  }
  void offer_swap(std::uint32_t a, std::uint32_t b, double gain) {
    const auto price = layer_.price(a, layer_.expert_at(b)) + layer_.price(b, layer_.expert_at(a));
    const double worth = gain / std::max(static_cast<double>(price), price_floor_);
    if (worth > best_.worth && price <= moves_left_ && layer_.may_swap(a, b)) best_ = {worth, a, b, nothing};
  }

  // One more replica of expert x in the place of y, which has others. Here x is on the fullest node, which is relieved
  // by its new replica elsewhere.
  void weigh_replicas() {
    candidates_.clear();
    dropped_here_.clear();
    collect(hot_);
    for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
      if (layer_.has_empty(n) && n != hot_) try_replicas(n, layer_.experts(), 0);
    }
    for (std::uint32_t y = 0; y < layer_.experts(); ++y) {
      if (layer_.count(y) > 1) try_dropping(y);
    }
  }
  // Here y is on the fullest node, and x is small or on another node above `time_min`.
  void weigh_giving_up(double time_min) {
    if (dropped_here_.empty()) return;
    candidates_ = {{lightest_, gain_of_adding(lightest_)}};
    for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
      if (n != hot_ && layer_.time(n) > time_min) collect(n);
    }
    for (const auto& y : dropped_here_) try_replicas(hot_, y.expert, y.gain);
  }
  [[nodiscard]] double share_with_more(std::uint32_t x) const { return layer_.weight(x) / (layer_.count(x) + 1); }
  // On the nodes that hold x already.
  [[nodiscard]] double gain_of_adding(std::uint32_t x) const {
    double gain = 0;
    for (auto m : layer_.holders(x)) gain += relief(m, share_with_more(x) - layer_.share(x));
    return gain;
  }
  void collect(std::uint32_t n) {
    for (auto x : layer_.held_by(n)) {
      // Its holders get rid of so much together; less than the best step would not be taken.
      if (x == layer_.experts() || share_with_more(x) * slowest_ + alike_ <= best_.worth) continue;
      candidates_.push_back({x, gain_of_adding(x)});
      if (candidates_.back().gain > candidates_.front().gain) std::swap(candidates_.back(), candidates_.front());
    }
  }
  // Its other nodes have more to do then.
  void try_dropping(std::uint32_t y) {
    const double change = layer_.weight(y) / (layer_.count(y) - 1) - layer_.share(y);
    double all = 0;
    for (auto m : layer_.holders(y)) all += relief(m, change);
    for (auto n : layer_.holders(y)) {
      const double elsewhere = all - relief(n, change);
      if (n == hot_) {
        dropped_here_.push_back({y, elsewhere});
      } else {
        try_replicas(n, y, elsewhere);
      }
    }
  }
  // `elsewhere`: what dropping y gains on other nodes, usually less than nothing.
  void try_replicas(std::uint32_t n, std::uint32_t y, double elsewhere) {
    const double price_min = layer_.is_changed(n) ? price_floor_ : 1;
    const double most = elsewhere + relief(n, -layer_.share(y));
    if (candidates_.empty() || most + candidates_.front().gain <= price_min * best_.worth) return;
    for (const auto& [x, gain_of_x] : candidates_) {
      if (most + gain_of_x <= price_min * best_.worth) continue;
      const double gain = elsewhere + gain_of_x + relief(n, share_with_more(x) - layer_.share(y));
      if (gain <= price_min * best_.worth || !layer_.may_hold(n, x)) continue;
      const auto slot = layer_.slot_of(n, y);
      const auto price = layer_.price(slot, x);
      const double worth = gain / std::max(static_cast<double>(price), price_floor_);
      if (worth > best_.worth && price <= moves_left_) best_ = {worth, slot, nothing, x};
    }
  }

  static constexpr double alike_ = 0.001;
  // A step that takes back an earlier one costs nothing: it counts as if it cost this much.
  static constexpr double price_floor_ = 1;
  static constexpr double enough_better_ = 1.02;  // a search for less is not worth its time
  const layer_balance& layer_;
  double target_;
  std::uint32_t hot_{};
  std::int64_t moves_left_{};
  step best_;
  std::vector<double> excess_;  // per node, now
  std::uint32_t lightest_{};
  double slowest_{1};
  std::vector<candidate> candidates_;    // experts that may get one more replica; first the best
  std::vector<candidate> dropped_here_;  // experts that the fullest node may give up
};

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
    relieve(settings_.imbalance_target);
    if (fill()) relieve(settings_.imbalance_target);
  } else {
    place_all();
    fill();
    relieve(settings_.imbalance_target);
  }
  if (moves_max_ < 0) even_out();
  fill();  // slots that became free on a node which had more of them than there are experts
  plan.imbalance_after = layer_.imbalance();
  plan.expert_of_slot.resize(layer_.slots());
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    plan.expert_of_slot[slot] = layer_.is_empty(slot) ? no_expert : layer_.expert_at(slot);
  }
  if (had_placement) plan.moves = list_moves(present);
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

  std::vector<std::uint32_t> next_slot(layer_.nodes());
  for (std::uint32_t n = 0; n < layer_.nodes(); ++n) next_slot[n] = layer_.first_slot(n);
  for (auto e : order_) {
    layer_.expect(e, count[e]);
    for (std::uint32_t replica = 0; replica < count[e]; ++replica) {
      std::uint32_t best = nothing;
      for (std::uint32_t n = 0; n < layer_.nodes(); ++n) {
        if (next_slot[n] == layer_.first_slot(n + 1) || (best != nothing && layer_.time(n) >= layer_.time(best)))
          continue;
        if (layer_.may_hold(n, e)) best = n;
      }
      if (best == nothing) break;  // the slots that are left are on its nodes
      layer_.place(next_slot[best]++, e);
    }
    layer_.set_share(e);
  }
}

// Experts without replica: into an empty slot of the emptiest node, else in the place of a spare replica.
void load_planner::cover() {
  for (std::uint32_t e = 0; e < layer_.experts(); ++e) {
    if (layer_.count(e) > 0) continue;
    std::uint32_t best = nothing;
    auto harm = [&](std::uint32_t slot) {
      const auto y = layer_.expert_at(slot);
      const double others = layer_.is_empty(slot) ? 0 : layer_.weight(y) / (layer_.count(y) - 1);
      return std::pair(!layer_.is_empty(slot), layer_.time(layer_.node_of(slot)) - layer_.share(y) + others);
    };
    for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
      if (layer_.is_spare(slot) && (best == nothing || harm(slot) < harm(best))) best = slot;
    }
    assert(best != nothing);
    layer_.replace(best, e);
  }
}

void load_planner::relieve(double wanted) {
  // A little below, so that rounding does not leave a layer a little above.
  const double target = wanted * 0.98;
  relief_search search{layer_, target};
  for (auto steps_left = 4 * layer_.slots(); steps_left > 0 && layer_.imbalance() > target; --steps_left) {
    const auto step = search.run(moves_left());
    if (step.slot == nothing || step.worth < settings_.gain_min) return;
    if (step.expert == nothing) {
      layer_.swap(step.slot, step.other_slot);
    } else {
      layer_.replace(step.slot, step.expert);
    }
  }
}

// The fullest node changes places with another so that the fuller one of the two gets as empty as possible. Where that
// ends too early, other counts of replicas may help on.
void load_planner::even_out() {
  swap_evenly();
  if (layer_.imbalance() <= even_target) return;
  relieve(even_target);
  swap_evenly();
}

void load_planner::swap_evenly() {
  for (auto steps_left = 4 * layer_.slots(); steps_left > 0; --steps_left) {
    const auto hot = layer_.fullest();
    if (layer_.time(hot) < 1 + even_enough) return;
    evening best{layer_.time(hot) - even_enough / 10};
    const auto emptiest = layer_.emptiest();
    try_evening(hot, emptiest, best);  // most likely the best; the others then need no look
    for (std::uint32_t c = 0; c < layer_.nodes(); ++c) {
      if (c != hot && c != emptiest) try_evening(hot, c, best);
    }
    if (best.a == nothing) return;
    layer_.swap(best.a, best.b);
  }
}

void load_planner::try_evening(std::uint32_t hot, std::uint32_t cold, evening& best) const {
  const double hot_time = layer_.time(hot), cold_time = layer_.time(cold);
  const double hot_slow = layer_.slowness(hot), cold_slow = layer_.slowness(cold);
  // At best both end alike. A search for little more than what is found already is not worth its time.
  const double alike = (hot_time * cold_slow + cold_time * hot_slow) / (hot_slow + cold_slow);
  if (best.fuller - alike <= 0.25 * (hot_time - best.fuller)) return;
  const auto hot_shares = layer_.shares_on(hot);
  const auto cold_shares = layer_.shares_on(cold);
  for (std::uint32_t x = 0; x < hot_shares.size(); ++x) {
    for (std::uint32_t y = 0; y < cold_shares.size(); ++y) {
      const double moved = hot_shares[x] - cold_shares[y];
      const double fuller = std::max(hot_time - moved * hot_slow, cold_time + moved * cold_slow);
      if (fuller >= best.fuller) continue;
      const auto a = layer_.first_slot(hot) + x, b = layer_.first_slot(cold) + y;
      if (layer_.may_swap(a, b)) best = {fuller, a, b};
    }
  }
}

// A free slot takes the fullest replica that does not make its node the fullest; if there is none, the lightest.
bool load_planner::fill() {
  bool filled = false;
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    if (!layer_.is_empty(slot) || moves_left() < 1) continue;
    const auto n = layer_.node_of(slot);
    const double room = layer_.time(layer_.fullest()) - layer_.time(n);
    std::uint32_t best = nothing;
    auto rank = [&](std::uint32_t e) {
      const double added = layer_.weight(e) / (layer_.count(e) + 1) * layer_.slowness(n);
      return std::tuple(layer_.may_hold(n, e), added <= room, added <= room ? layer_.share(e) : -added);
    };
    for (std::uint32_t e = 0; e < layer_.experts(); ++e) {
      if (!layer_.holds(n, e) && (best == nothing || rank(e) > rank(best))) best = e;
    }
    if (best == nothing) continue;  // the node has all of them
    layer_.replace(slot, best);
    filled = true;
  }
  return filled;
}

std::vector<load_move> load_planner::list_moves(std::span<const std::uint32_t> present) const {
  std::vector<load_move> moves;
  std::vector<std::vector<std::uint32_t>> given_up(layer_.experts());  // by which nodes
  std::vector<std::vector<std::uint32_t>> dropped(layer_.nodes());     // which experts
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    const auto n = layer_.node_of(slot);
    const auto e = present[slot];
    if (e == no_expert || layer_.holds(n, e) || std::ranges::find(dropped[n], e) != dropped[n].end()) continue;
    given_up[e].push_back(n);
    dropped[n].push_back(e);
  }
  auto take = [](std::vector<std::uint32_t>& from) -> std::optional<std::uint32_t> {
    if (from.empty()) return std::nullopt;
    const auto first = from.front();
    from.erase(from.begin());
    return first;
  };
  for (std::uint32_t slot = 0; slot < layer_.slots(); ++slot) {
    const auto n = layer_.node_of(slot);
    const auto e = layer_.expert_at(slot);
    if (layer_.is_empty(slot) || layer_.was_held(n, e)) continue;
    const auto from = take(given_up[e]);
    const auto reason = !layer_.was_served(e) ? load_move::why::cover
                        : from                ? load_move::why::migrate
                                              : load_move::why::replicate;
    moves.push_back({e, n, from, take(dropped[n]), reason});
  }
  return moves;
}

}  // namespace troupe::coordinator
