// Which expert belongs on which node: one pure function from what there is to what should be, with reasons.
//
//   1 keep      replicas stay where they are, as long as their node accepts work
//     wish      a replica on every node that an operator chose for the expert, as far as it has room
//   2 trim      more than wanted: the replica on the fullest node goes (a loading one before a ready one), one on a
//               chosen node last
//   3 place     fewer than wanted: experts without any replica first; on another node and, where possible, another
//               zone, the node with the smallest share of this layer, then the emptiest
//               the experts of a group (rows choose them together) on one node, or as few nodes of one zone as there
//               are for a group; the first of them goes where there is room for the others
//   4 make room when free slots are only left on nodes that hold the expert already, another expert moves over; when
//             experts are to change places on full nodes, one of them waits on a node that has a free slot
//   5 gather    what two nodes hold of one group comes together on one of them
//   6 balance   a few moves from the fullest to the emptiest node, when that leaves both at most equally full; what a
//               node holds of a group moves as one
//
// Making room, gathering and balancing never touch what is where an operator chose, and groups do not follow it.
//
// Fullness is load per slot, so unequal nodes fill up alike. Loads are all 1 until traffic is taken into account.
// Every step lowers the same measure (how scattered the groups are, then how uneven the nodes), so a plan that has been
// carried out is planned again as it is: no move is undone. The plan says what is wanted; that a replica may only go
// when its successors serve is the caller's rule. Deterministic: equal input gives an equal plan. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.hpp"

namespace troupe::coordinator {

struct planner_node {
  node_id name;
  std::string zone;
  std::uint32_t slots{};       // all of them
  std::uint32_t slots_free{};  // without anything in them now: room for new replicas
  bool accepts{true};          // false: it is being drained and must end empty
};

struct planner_replica {
  std::uint32_t node{};  // index into planner_input::nodes
  bool ready{};          // verified; false: still loading
  bool leaving{};        // out of the map, not freed yet: kept only when it is needed again
  // It was added to take the place of the replica on that node, which goes first when there are too many.
  std::optional<std::uint32_t> replaces{};
};

struct planner_expert {
  expert_id id;
  double load{1.0};
  std::vector<planner_replica> replicas;  // at most one per node
  std::vector<std::uint32_t> avoid;       // nodes that failed to load it a moment ago
  std::optional<std::uint32_t> count{};   // how many replicas instead of planner_input::replication; 0: none is to stay
  std::vector<std::uint32_t> chosen{};    // an operator's nodes, the most important first; with count 0: where it was
  std::optional<std::uint32_t> group{};   // of its layer: rows choose these experts together
};

struct planner_input {
  std::vector<planner_node> nodes;      // ordered by name
  std::vector<planner_expert> experts;  // ordered by id
  std::uint32_t replication{1};
  std::uint32_t balance_moves_max{};  // of making room and of balancing
  bool balance{true};                 // false: what is not needed is not moved now
};

enum class move_kind : std::uint8_t { add, drop };
enum class move_reason : std::uint8_t {
  first_replica,
  replication,
  drain,
  surplus,
  make_room,
  balance,
  chosen,
  gather
};
[[nodiscard]] std::string_view to_string(move_reason reason);

struct planned_move {
  move_kind kind{move_kind::add};
  expert_id expert;
  std::uint32_t node{};
  move_reason reason{move_reason::first_replica};
  std::optional<std::uint32_t> replaces{};  // add: the node whose replica is given up for it
  friend bool operator==(const planned_move&, const planned_move&) = default;
};

struct placement_plan {
  std::vector<std::vector<std::uint32_t>> wanted;  // per expert of the input: its nodes, ascending
  std::vector<planned_move> moves;                 // adds and drops, experts that serve nowhere first
  std::uint32_t replicas_missing{};                // wanted by replication or count, without room now
  std::uint32_t experts_without_replica{};         // among them: not even one
};

// @pre indices are in range; no expert names a node twice
[[nodiscard]] placement_plan plan_placement(const planner_input& input);

}  // namespace troupe::coordinator
