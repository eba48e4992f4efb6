// The nodes of a simulated cluster and which of them are there. A placement holds the slots of all nodes; planners see
// the slots of those that are there. Plain values; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core/layer_balance.hpp"

namespace troupe::cli {

using placement = std::vector<std::uint32_t>;  // expert of each slot, or no_expert; the slots of node 0 first

class present_nodes {
 public:
  // `node_slots`: per layer. Zones are runs of neighbouring nodes, as equal as can be. All are there.
  present_nodes(std::vector<std::uint32_t> node_slots, std::uint32_t zones);

  // @pre one per node, at least one is there
  void set(std::vector<bool> there);
  [[nodiscard]] std::uint32_t changes() const { return changes_; }  // how often another set of nodes was there
  [[nodiscard]] std::uint32_t away() const { return away_; }
  [[nodiscard]] bool is_there(std::uint32_t node) const { return there_[node]; }

  [[nodiscard]] const std::vector<std::uint32_t>& all_slots() const { return all_slots_; }  // of each node
  [[nodiscard]] std::vector<std::uint32_t> slots() const;                                   // of each that is there
  [[nodiscard]] std::vector<coordinator::load_node> load_nodes() const;                     // that are there

  // The slots of the nodes that are there, and back; slots of the others are empty then.
  [[nodiscard]] placement gather(const placement& all) const;
  [[nodiscard]] placement scatter(const placement& there) const;
  [[nodiscard]] placement without_absent(const placement& all) const { return scatter(gather(all)); }

 private:
  std::vector<std::uint32_t> all_slots_;
  std::uint32_t zones_{};
  std::vector<bool> there_;
  std::uint32_t away_{};
  std::uint32_t changes_{};
};

}  // namespace troupe::cli
