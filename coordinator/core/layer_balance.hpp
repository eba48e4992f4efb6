// The slots of one layer while they are planned: who holds what, how full that makes each node, and what a step would
// change. Knows the rules (one replica per node, zones), not what is worth doing.
//
// An empty slot holds a replica of a nameless expert without load; so moving to a free slot is changing places with it.
// Times are in units of the mean time of a node: 1.05 is 5 % above it. One thread.
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
  [[nodiscard]] std::uint32_t experts() const { return experts_; }
  [[nodiscard]] std::uint32_t slots() const { return first_slot_.back(); }
  [[nodiscard]] std::uint32_t first_slot(std::uint32_t n) const { return first_slot_[n]; }
  [[nodiscard]] std::uint32_t node_of(std::uint32_t slot) const { return node_of_[slot]; }
  [[nodiscard]] std::uint32_t expert_at(std::uint32_t slot) const { return held_[slot]; }  // experts(): empty
  // @pre the node holds it
  [[nodiscard]] std::uint32_t slot_of(std::uint32_t n, std::uint32_t e) const {
    const auto held = held_by(n);
    return first_slot_[n] + static_cast<std::uint32_t>(std::ranges::find(held, e) - held.begin());
  }
  [[nodiscard]] bool is_empty(std::uint32_t slot) const { return held_[slot] == experts_; }
  [[nodiscard]] bool has_empty(std::uint32_t n) const { return empty_[n] > 0; }
  [[nodiscard]] double time(std::uint32_t n) const { return time_[n]; }
  [[nodiscard]] double slowness(std::uint32_t n) const { return slowness_[n]; }  // 1 / speed
  [[nodiscard]] double weight(std::uint32_t e) const { return weight_[e]; }
  [[nodiscard]] double share(std::uint32_t e) const { return share_[e]; }  // of one replica; without any: the load
  [[nodiscard]] std::uint32_t count(std::uint32_t e) const { return count_[e]; }
  [[nodiscard]] std::span<const std::uint32_t> holders(std::uint32_t e) const {
    return {holders_.data() + std::size_t{e} * nodes_.size(), count_[e]};
  }
  [[nodiscard]] std::span<const std::uint32_t> held_by(std::uint32_t n) const {
    return {held_.data() + first_slot_[n], held_.data() + first_slot_[n + 1]};
  }
  // What each of them puts on its node: held_by, by position.
  [[nodiscard]] std::span<const double> shares_on(std::uint32_t n) const {
    return {slot_share_.data() + first_slot_[n], slot_share_.data() + first_slot_[n + 1]};
  }
  [[nodiscard]] bool holds(std::uint32_t n, std::uint32_t e) const {
    return std::ranges::find(holders(e), n) != holders(e).end();
  }
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
  [[nodiscard]] bool may_swap(std::uint32_t a, std::uint32_t b) const {
    return may_hold(node_of_[b], held_[a], node_of_[a]) && may_hold(node_of_[a], held_[b], node_of_[b]);
  }
  // Can the slot be given to another expert?
  [[nodiscard]] bool is_spare(std::uint32_t slot) const { return is_empty(slot) || count_[held_[slot]] > 1; }

  // Replicas that nodes would have to load, compared with the beginning: now, and more by a step.
  [[nodiscard]] std::int64_t moves() const { return moves_; }
  [[nodiscard]] std::int64_t price(std::uint32_t slot, std::uint32_t e) const {
    return std::int64_t{is_new(node_of_[slot], e)} - std::int64_t{is_new(node_of_[slot], held_[slot])};
  }
  [[nodiscard]] bool was_held(std::uint32_t n, std::uint32_t e) const {
    const auto* first = before_.data() + std::size_t{e} * nodes_.size();
    return std::find(first, first + count_before_[e], n) != first + count_before_[e];
  }

  // Does it hold what it did not hold in the beginning? If not, every new replica there is a move.
  [[nodiscard]] bool is_changed(std::uint32_t n) const { return changed_[n] > 0; }

  [[nodiscard]] bool was_served(std::uint32_t e) const { return count_before_[e] > 0; }

  // -- steps. @pre allowed by the above
  void swap(std::uint32_t slot_a, std::uint32_t slot_b);
  void replace(std::uint32_t slot, std::uint32_t e);  // e: experts() makes it empty
  // To place all replicas of an expert one by one: its share, as if they were there; each into an empty slot; the share
  // for as many as there are in the end.
  void expect(std::uint32_t e, std::uint32_t replicas) { share_[e] = weight_[e] / replicas; }
  void place(std::uint32_t slot, std::uint32_t e);
  void set_share(std::uint32_t e);

 private:
  [[nodiscard]] bool is_new(std::uint32_t n, std::uint32_t e) const { return e != experts_ && !was_held(n, e); }
  [[nodiscard]] bool keeps_spread(std::uint32_t n, std::uint32_t e, std::uint32_t from) const;
  [[nodiscard]] std::uint32_t* holders_begin(std::uint32_t e) {
    return holders_.data() + std::size_t{e} * nodes_.size();
  }
  void put(std::uint32_t slot, std::uint32_t e);
  void refresh_times();

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
  std::vector<double> weight_, share_, time_;        // per expert, expert, node
  std::vector<double> slot_share_;                   // per slot
  std::vector<std::uint32_t> held_;                  // per slot
  std::vector<std::uint32_t> empty_;                 // per node: slots
  std::vector<std::int64_t> changed_;                // per node: replicas it did not hold
  std::vector<std::uint32_t> count_, count_before_;  // per expert
  std::vector<std::uint32_t> holders_, before_;      // per expert: room for all nodes
};

}  // namespace troupe::coordinator
