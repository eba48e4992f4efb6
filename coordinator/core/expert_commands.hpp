// What operators ask for one expert: migrate, replicate, pin, unpin, prune, restore, add; and to cancel an operation.
// Here a command is checked and turned into the records that make it true; admin_commands has them written and answers.
#pragma once

#include <vector>

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator {

// A checked command: the answer, and what is written to disk for it.
struct decision {
  command_outcome outcome;
  std::vector<store_record> records{};
};

namespace expert_commands {

// not_found: no such expert or node, with what there is. conflict: another operation is under way (its id), the node
// takes no work, has no free slot or has the expert already, more replicas than nodes, the expert is pinned.
[[nodiscard]] result<decision> check(const cluster_state& state, const migrate_expert& what);
[[nodiscard]] result<decision> check(const cluster_state& state, const replicate_expert& what);
[[nodiscard]] result<decision> check(const cluster_state& state, const pin_expert& what);
// The kind of operation that a verb starts; its name is the verb's.
[[nodiscard]] operation_kind kind_of(change_presence::verb what);
// Also conflict: a row could no longer choose k experts (of the groups that it keeps), or the verb does not fit.
[[nodiscard]] result<decision> check(const cluster_state& state, const change_presence& what);

// not_found says which experts there are.
[[nodiscard]] result<const expert_entry*> known_expert(const cluster_state& state, const expert_id& id);
// One that may be given a new wish now. conflict, in_progress, overloaded: another change of it is under way, or too
// many.
[[nodiscard]] result<const expert_entry*> free_expert(const cluster_state& state, const expert_id& id);
// The operation that an operator calls "op-7". not_found when there is none (any more).
[[nodiscard]] result<const operation_record*> find_operation(const cluster_state& state, const std::string& name);
// Of an operation on an expert. conflict when it has ended otherwise.
[[nodiscard]] result<decision> check_cancel(const operation_record& operation);

}  // namespace expert_commands
}  // namespace troupe::coordinator
