// Which nodes are away in which steps, drawn by seed. What a node held is gone when it returns. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::cli {

struct node_absence {
  std::uint32_t node{};
  std::uint32_t from{}, until{};  // indices of steps; `until`: the first in which it is back
};

class node_calendar {
 public:
  node_calendar() = default;  // nobody is ever away

  struct drawing {
    std::uint64_t seed{};
    std::uint32_t losses{};     // tried; those that would leave too few slots do not happen
    std::uint32_t steps{};      // in all; nobody is away in the first one
    double steps_away_mean{};   // exponential, at least 1
    std::uint64_t slots_min{};  // that nodes which are there have together, always
  };
  // `node_slots`: of each node.
  node_calendar(std::span<const std::uint32_t> node_slots, const drawing& how);

  // Of each of `nodes` nodes: is it there?
  [[nodiscard]] std::vector<bool> present(std::uint32_t nodes, std::uint32_t step) const;
  [[nodiscard]] const std::vector<node_absence>& absences() const { return absences_; }  // in the order of `from`

 private:
  std::vector<node_absence> absences_;
};

}  // namespace troupe::cli
