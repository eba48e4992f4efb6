// Who holds what of one layer while it is planned, how full that makes each node, and what a step would change. Knows
// the rules (one replica per node, zones), not what is worth doing.
//
// An empty slot holds a replica of a nameless expert without load; so moving to a free slot is changing places with it.
// Which slot of its node a replica has does not matter until the end (slots_after). Times are in units of the mean time
// of a node: 1.05 is 5 % above it. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace troupe::coordinator {

inline constexpr std::uint32_t no_expert = std::numeric_limits<std::uint32_t>::max();

struct load_node {
  std::uint32_t slots{};  // for this layer
  std::uint32_t zone{};   // what fails together
  double speed{1};        // load per time, compared with the others
};

class layer_balance {
 public:
  // @pre every node has a slot and a positive speed
  explicit layer_balance(std::vector<load_node> nodes);

  // Starts a layer. A second replica on a node counts as an empty slot.
  void begin(std::span<const double> loads, std::span<const std::uint32_t> present);

  // -- what is
  [[nodiscard]] std::uint32_t nodes() const { return static_cast<std::uint32_t>(nodes_.size()); }
  [[nodiscard]] std::uint32_t experts() const { return experts_; }  // as an expert: an empty slot
  [[nodiscard]] std::uint32_t slots() const { return first_slot_.back(); }
  [[nodiscard]] bool has_empty(std::uint32_t n) const { return held_by(n).back() == experts_; }
  [[nodiscard]] double time(std::uint32_t n) const { return time_[n]; }
  [[nodiscard]] double slowness(std::uint32_t n) const { return slowness_[n]; }  // 1 / speed
  [[nodiscard]] double weight(std::uint32_t e) const { return weight_[e]; }
  [[nodiscard]] double share(std::uint32_t e) const { return share_[e]; }  // of one replica; without any: the load
  [[nodiscard]] std::uint32_t count(std::uint32_t e) const { return count_[e]; }
  // Experts with more than one replica, in no order.
  [[nodiscard]] std::span<const std::uint32_t> replicated() const { return replicated_; }
  [[nodiscard]] std::span<const std::uint32_t> holders(std::uint32_t e) const {
    return {holders_.data() + std::size_t{e} * nodes_.size(), count_[e]};
  }
  // One per slot, the largest share first, empty slots last.
  [[nodiscard]] std::span<const std::uint32_t> held_by(std::uint32_t n) const {
    return {held_.data() + first_slot_[n], held_.data() + first_slot_[n + 1]};
  }
  // What each of them puts on its node: held_by, by position.
  [[nodiscard]] std::span<const double> shares_on(std::uint32_t n) const {
    return {held_share_.data() + first_slot_[n], held_share_.data() + first_slot_[n + 1]};
  }
  [[nodiscard]] bool holds(std::uint32_t n, std::uint32_t e) const { return (had_[at(n, e)] & now) != 0; }
  [[nodiscard]] bool was_held(std::uint32_t n, std::uint32_t e) const { return (had_[at(n, e)] & before) != 0; }
  [[nodiscard]] bool was_served(std::uint32_t e) const { return was_served_[e]; }
  [[nodiscard]] std::uint32_t fullest() const {
    return static_cast<std::uint32_t>(std::ranges::max_element(time_) - time_.begin());
  }
  [[nodiscard]] std::uint32_t emptiest() const {
    return static_cast<std::uint32_t>(std::ranges::min_element(time_) - time_.begin());
  }
  [[nodiscard]] double imbalance() const { return total_ > 0 ? *std::ranges::max_element(time_) - 1 : 0; }

  // -- what may be. `from`: the node whose replica goes at the same time; no_expert: none.
  [[nodiscard]] bool may_hold(std::uint32_t n, std::uint32_t e, std::uint32_t from = no_expert) const {
    return e == experts_ || (!holds(n, e) && (one_zone_ || keeps_spread(n, e, from)));
  }
  // Can x of node a and y of node b change places?
  [[nodiscard]] bool may_swap(std::uint32_t a, std::uint32_t x, std::uint32_t b, std::uint32_t y) const {
    return may_hold(b, x, a) && may_hold(a, y, b);
  }
  // Can its slot be given to another expert?
  [[nodiscard]] bool is_spare(std::uint32_t e) const { return e == experts_ || count_[e] > 1; }

  // Replicas that nodes would have to load, compared with the beginning: now, and more when a node takes x for y.
  [[nodiscard]] std::int64_t moves() const { return moves_; }
  [[nodiscard]] std::int64_t price(std::uint32_t n, std::uint32_t y, std::uint32_t x) const {
    return std::int64_t{!was_held(n, x)} - std::int64_t{!was_held(n, y)};
  }
  // Does it hold what it did not hold in the beginning? If not, every new replica there is a move.
  [[nodiscard]] bool is_changed(std::uint32_t n) const { return changed_[n] > 0; }

  // -- steps. @pre allowed by the above
  void swap(std::uint32_t a, std::uint32_t x, std::uint32_t b, std::uint32_t y);
  void replace(std::uint32_t n, std::uint32_t y, std::uint32_t x);  // x takes the slot of y; experts(): empty
  // To place all replicas of an expert one by one: its share, as if they were there; each into an empty slot; the share
  // for as many as there are in the end.
  void expect(std::uint32_t e, std::uint32_t replicas) { share_[e] = weight_[e] / replicas; }
  void place(std::uint32_t n, std::uint32_t e);
  void set_share(std::uint32_t e);

  // -- the end: the expert of each slot, no_expert where it is empty. What stays on a node keeps its slot of `present`.
  [[nodiscard]] std::vector<std::uint32_t> slots_after(std::span<const std::uint32_t> present);
  [[nodiscard]] std::uint32_t node_of(std::uint32_t slot) const { return node_of_[slot]; }

 private:
  // What a node has to do with an expert: bits.
  static constexpr std::uint8_t now = 1, before = 2, placed = 4;
  [[nodiscard]] std::size_t at(std::uint32_t n, std::uint32_t e) const { return n * weight_.size() + e; }
  [[nodiscard]] bool keeps_spread(std::uint32_t n, std::uint32_t e, std::uint32_t from) const;
  [[nodiscard]] std::uint32_t* holders_begin(std::uint32_t e) {
    return holders_.data() + std::size_t{e} * nodes_.size();
  }
  void fill_nodes(std::span<const std::uint32_t> present);
  void put(std::uint32_t n, std::uint32_t y, std::uint32_t x);
  [[nodiscard]] std::uint32_t find(std::uint32_t n, std::uint32_t e) const;
  void set_held(std::uint32_t n, std::uint32_t position, std::uint32_t e);

  // constant
  std::vector<load_node> nodes_;
  std::vector<std::uint32_t> first_slot_, node_of_;
  std::vector<double> slowness_;
  double speed_{};
  std::uint32_t zones_{};
  bool one_zone_{};  // or each node has its own: nothing to look after

  // per layer
  std::uint32_t experts_{};
  double total_{};
  std::int64_t moves_{};
  std::vector<double> weight_, share_, time_;  // per expert, expert, node
  std::vector<std::uint32_t> held_;            // per node: its slots, by share
  std::vector<double> held_share_;
  std::vector<std::int64_t> changed_;  // per node: replicas it did not hold
  std::vector<std::uint32_t> count_;   // per expert
  std::vector<bool> was_served_;
  std::vector<std::uint32_t> holders_;  // per expert: room for all nodes
  std::vector<std::uint32_t> replicated_;
  std::vector<std::uint8_t> had_;  // per node and expert
};

// Two experts that change places take so much load from one node and give it to the other: more than low, less than
// high.
struct load_range {
  double low, high;
};

// Calls visit(x, y, moved) for the positions of `hot` and `cold` (shares_on two nodes) whose change of places moves a
// load within `wanted`, which visit may narrow. The shares fall, so few of all pairs are looked at.
template <class Visit>
void for_pairs(std::span<const double> hot, std::span<const double> cold, const load_range& wanted, Visit visit) {
  std::size_t first = 0;
  for (std::size_t x = 0; x < hot.size(); ++x) {
    while (first < cold.size() && hot[x] - cold[first] <= wanted.low) ++first;
    for (auto y = first; y < cold.size() && hot[x] - cold[y] < wanted.high; ++y) visit(x, y, hot[x] - cold[y]);
  }
}

}  // namespace troupe::coordinator
