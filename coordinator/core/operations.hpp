// Operations: what an operator started and what goes on in the background until it is done. An operation is a wish that
// was changed (or a node that is drained), the wish to go back to, and how it ended. The reconciler carries the wish
// out like any other; here is only seen how far it is. So there is no list of steps that could contradict the slots, a
// restart needs nothing but the record, and cancelling is wishing for what was before.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::operations {

// In this order; the whole is at the step of whichever replica is least far.
enum class step : std::uint8_t {
  reserve,      // a slot is chosen and the load is ordered
  copy,         // the node copies, verifies and probes the expert
  publish,      // the new replica is ready (or the expert is masked), the map that says so is being written
  acknowledge,  // not every router works by that map yet
  drain,        // the old replica is out of the map, routers may still use it
  free,         // the node gives the slot back
  complete,
};
[[nodiscard]] std::string_view to_string(step s);

struct progress {
  step at{step::reserve};
  double fraction{};   // 0-1
  std::string detail;  // what it waits for; may be empty
};

// Of a running operation, from what the nodes reported last.
[[nodiscard]] progress look(const cluster_state& state, const operation_record& operation);

// Why it can never be completed as things are; empty: it can.
[[nodiscard]] std::string obstacle(const cluster_state& state, const operation_record& operation);

// How far an operation on many experts is in its changes, which are made from the first to the last and taken back from
// the last to the first, layer by layer. Valid as long as the operation.
struct course {
  std::size_t begun{};                  // of how many changes the experts have the wishes that they are to have
  std::span<const wish_change> newest;  // those of the layer that came last; all before them are complete
  std::span<const wish_change> rest;    // what this layer still lacks, or the next one; empty: all have begun
};
[[nodiscard]] course course_of(const cluster_state& state, const operation_record& operation);
// The wishes to begin with next, of course::rest: all of them; of an operation in batches as many as find room, best of
// all where their experts are. Empty: not even one does.
[[nodiscard]] std::vector<wish_record> next_batch(const cluster_state& state, const operation_record& operation,
                                                  std::span<const wish_change> rest);
[[nodiscard]] bool are_complete(const cluster_state& state, std::span<const wish_change> changes);
// Nothing is being loaded or freed, and nothing is about to be.
[[nodiscard]] bool is_at_rest(const cluster_state& state);

// The running operation of that expert, also one that is being written; nullptr: none. Valid until the next step.
[[nodiscard]] const operation_record* running_on(const cluster_state& state, const expert_id& expert);
[[nodiscard]] bool is_in_flight(const cluster_state& state, std::uint64_t number);  // being written
[[nodiscard]] std::size_t running(const cluster_state& state);
// The wish under which a cancelled operation goes back to where the replicas were.
[[nodiscard]] expert_wish way_back(const operation_record& operation);
// The operation, ended that way; with it the records of old ones that are given up.
[[nodiscard]] std::vector<store_record> ended(const cluster_state& state, operation_record operation,
                                              operation_state how, std::string reason);

// Takes the numbers of the operations that `records` begin, and says who asked, when (wall clock) and why (a policy's
// figures): for people who look at them later.
void sign(cluster_state& state, std::vector<store_record>& records, const std::string& who, std::int64_t at_unix_ms,
          const std::string& why = {});

// Ends what is complete and rolls back what cannot be completed. After the plan of a pass.
void advance(cluster_state& state);
// The records are on disk: wishes and operations among them become true.
void committed(cluster_state& state, const persist_in_flight& done);
// They are not, or nobody knows.
void not_written(cluster_state& state, const persist_in_flight& failed);
// Every wish and operation, for a disk of which nothing is known.
[[nodiscard]] std::vector<store_record> all_records(const cluster_state& state);

}  // namespace troupe::coordinator::operations
