// Which experts rows choose together, and how many of them each node holds while a placement is planned. Part of
// placement_planner: says how well a node suits a group, not what is done about it. One thread.
//
// A node takes a whole group when there are no more nodes than groups (times replicas); with more nodes than that, a
// group's experts share as many nodes as there are for it: everybody on one node would leave the others idle.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "coordinator/core/placement_planner.hpp"

namespace troupe::coordinator {

class expert_groups {
 public:
  expert_groups() = default;
  explicit expert_groups(const planner_input& input);

  // A replica comes to the node, or leaves it. One that an operator `chose` does not attract its mates.
  void count(std::uint32_t e, std::uint32_t n, bool comes, bool chosen);

  // The experts of e's group, itself included, ascending; of an expert without group: itself.
  [[nodiscard]] std::span<const std::uint32_t> mates(std::uint32_t e) const;
  // How many of them the node holds; 0 for an expert without group.
  [[nodiscard]] int held(std::uint32_t e, std::uint32_t n) const;
  // Would the node hold no more of the group than its share with so many more? Always without group.
  [[nodiscard]] bool takes(std::uint32_t e, std::uint32_t n, std::size_t more) const;

  // For one more replica: 0 beside the group's other experts, 1 in a zone with some, 2 elsewhere, 3 where the node's
  // share of the group is full. 0 without group.
  [[nodiscard]] int distance(std::uint32_t e, std::uint32_t n) const;
  // Too little room for the node's share of the group?
  [[nodiscard]] bool lacks_room(std::uint32_t e, std::uint32_t n, std::uint32_t room) const;
  // How many of those that a node holds move as one: all, or what is more than its share.
  [[nodiscard]] std::size_t leaving(std::uint32_t e, std::size_t held) const;

 private:
  struct group {
    std::vector<std::uint32_t> experts;
    std::uint32_t share{};          // of these that one node takes
    std::vector<int> held;          // by node
    std::vector<int> held_in_zone;  // by zone
  };
  [[nodiscard]] const group* find(std::uint32_t e) const {
    return group_of_[e] == none ? nullptr : &groups_[group_of_[e]];
  }

  static constexpr std::uint32_t none = UINT32_MAX;
  std::vector<group> groups_;
  std::vector<std::uint32_t> group_of_;  // by expert: index into groups_, or none
  std::vector<std::uint32_t> alone_;     // by expert: itself
  std::vector<std::uint32_t> zone_of_;   // by node
};

}  // namespace troupe::coordinator
