// Where the replicas of one layer's experts belong so that no node has more to do than the others: loads, nodes and the
// present placement in, a better placement out, with the moves that lead there and what they are worth.
//
//   time       of a node: the loads of its replicas over its speed; an expert's load is split evenly over its replicas
//   imbalance  the longest time over the mean one, minus 1 (mean: all loads over all speeds). Slots are memory, not
//              speed: of two nodes that are equally fast, the larger one holds more experts and the same load
//
//   1 cover    an expert without replica comes first, whatever the limit of moves
//   2 relieve  as long as the fullest node is above the target, the step that lowers the sum of what all nodes have
//              above it most per move: one more replica in place of another expert's spare one (1 move), two replicas
//              that change places (2 moves). Counts of replicas change only where that is the better step
//   3 fill     free slots take another replica of the expert whose replicas are fullest
//   4 even out without a limit of moves: changing places until the fullest node is hardly above the mean (0.03 % with 9
//              slots per node) or cannot get better; where it ends too early, a few times more from two steps by chance
//
// Without a present placement: replicas one by one to the expert whose replicas are fullest, fullest replicas first to
// the emptiest node, then 3 and 4 (as far as it gets). Always: at most one replica of an expert per node, replicas of
// one expert in as many zones as there are (as far as slots allow), no slot empty that could be used. Nothing has to
// divide anything.
//
// Deterministic: equal input gives an equal plan. One thread per planner; it keeps its memory from layer to layer.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include "coordinator/core/layer_balance.hpp"

namespace troupe::coordinator {

struct load_planner_settings {
  std::int64_t moves_max{-1};     // per layer; -1: as many as help
  double imbalance_target{0.05};  // with a limit of moves, no move is made below it
  // The least that a move must take away from what nodes have above the target, as a share of the mean time.
  double gain_min{1e-4};
  std::uint64_t expert_bytes{};  // what one move copies
};

// One replica that a node does not have yet.
struct load_move {
  enum class why : std::uint8_t { cover, replicate, migrate };
  std::uint32_t expert{};
  std::uint32_t to{};                   // node
  std::optional<std::uint32_t> from{};  // the node that gives its replica up for this one; none: a further replica
  std::optional<std::uint32_t> instead_of{};  // the expert whose replica on `to` makes room
  why reason{why::cover};
  friend bool operator==(const load_move&, const load_move&) = default;
};
[[nodiscard]] std::string_view to_string(load_move::why reason);

struct layer_plan {
  std::vector<std::uint32_t> expert_of_slot;  // as in the input; what stays on its node keeps its slot
  std::vector<load_move> moves;               // by slot; none when nothing was placed before
  std::uint64_t bytes{};                      // that the moves copy
  double imbalance_before{};                  // of these loads on the present placement; 0 when there was none
  double imbalance_after{};
};

class load_planner {
 public:
  // @pre nodes with at least one slot each, speeds > 0
  load_planner(std::vector<load_node> nodes, load_planner_settings settings);

  // `loads`: of each expert of the layer, >= 0 and finite, any unit. `present`: what each slot holds (an expert or
  // no_expert), the slots of node 0 first; empty: nothing is placed yet.
  // @pre as many slots as experts or more
  [[nodiscard]] layer_plan plan(std::span<const double> loads, std::span<const std::uint32_t> present);

 private:
  void place_all();
  void cover();
  void relieve(double imbalance_wanted);
  void even_out(double enough);  // stops when the fullest node is that little above the mean
  void swap_evenly(double enough);
  void try_others(double enough);
  void step_by_chance(std::minstd_rand& random);
  struct evening {
    double fuller{};                 // time of the fuller one of the two nodes afterwards
    std::uint32_t other{no_expert};  // the node that the fullest changes places with
    std::uint32_t gives{no_expert}, takes{no_expert};
  };
  void try_evening(std::uint32_t hot, std::uint32_t cold, evening& best) const;
  bool fill();  // was there something to fill?
  [[nodiscard]] std::int64_t moves_left() const;
  [[nodiscard]] std::vector<load_move> list_moves(std::span<const std::uint32_t> present,
                                                  std::span<const std::uint32_t> after) const;

  load_planner_settings settings_;
  layer_balance layer_;
  std::int64_t moves_max_{};          // of this plan
  std::vector<std::uint32_t> order_;  // scratch: experts
};

}  // namespace troupe::coordinator
