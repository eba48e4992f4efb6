// The search for the step that relieves the fullest node best: two replicas that change places, or one more replica in
// the place of another expert's spare one. It looks at the steps of this node only: whatever else is above the target
// has its turn as the fullest.
//
// A search costs what it looks at. So it goes from the steps that are most likely good to those that seldom are, and
// leaves out whatever cannot beat the best so far. Deterministic. One thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "coordinator/core/layer_balance.hpp"

namespace troupe::coordinator {

class relief_search {
 public:
  // `target`: the imbalance to get down to. The layer outlives the search and may change between runs.
  relief_search(const layer_balance& layer, double target);

  struct step {
    double worth{};  // what is taken away from the excess over the target, per move
    std::uint32_t node{no_expert}, gives{no_expert}, takes{no_expert};
    std::uint32_t other{no_expert};  // the node that it changes places with; none: what it gives is a spare replica
    [[nodiscard]] bool is_found() const { return node != no_expert; }
  };

  // `moves_left`: what the step may cost.
  [[nodiscard]] step run(std::int64_t moves_left);

 private:
  struct candidate {
    std::uint32_t expert;
    double gain;  // on the nodes that keep it
  };

  [[nodiscard]] double excess(double time) const { return std::max(0.0, time - target_) + alike_ * time * time; }
  [[nodiscard]] double relief(std::uint32_t n, double change) const {
    return excess_[n] - excess(layer_.time(n) + change * layer_.slowness(n));
  }
  [[nodiscard]] double share_with_more(std::uint32_t x) const { return layer_.weight(x) / (layer_.count(x) + 1); }
  [[nodiscard]] double gain_of_adding(std::uint32_t x) const;
  [[nodiscard]] double room_for_others() const;

  void try_swaps(std::uint32_t c);
  bool offer_swap(std::uint32_t c, std::uint32_t x, std::uint32_t y, double gain);
  void weigh_replicas();
  void weigh_giving_up(double time_min);
  void collect(std::uint32_t n);
  void try_dropping(std::uint32_t y);
  void try_replicas(std::uint32_t n, std::uint32_t y, double elsewhere);

  // The small second part of the excess prefers, among steps that are equally good otherwise, those that leave the
  // nodes more alike, so that later steps find room.
  static constexpr double alike_ = 0.001;
  // A step that takes back an earlier one costs nothing: it counts as if it cost this much.
  static constexpr double price_floor_ = 1;
  const layer_balance& layer_;
  double target_;  // as a time
  std::uint32_t hot_{};
  std::int64_t moves_left_{};
  step best_;
  std::vector<double> excess_;    // per node, now
  std::vector<double> changes_;   // scratch: per holder of an expert
  std::uint32_t lightest_{};      // expert
  double slowest_{1};             // slowness of a node
  std::vector<candidate> added_;  // experts that may get one more replica; first the best
  std::vector<candidate> spare_;  // experts whose replica the fullest node may give up
};

}  // namespace troupe::coordinator
