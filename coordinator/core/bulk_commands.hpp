// What operators ask for many experts at once: other weights, the placement of an earlier epoch, or a planned one.
// Checked like the commands on one expert (expert_commands.hpp) and turned into one operation.
#pragma once

#include "coordinator/core/expert_commands.hpp"

namespace troupe::coordinator::bulk_commands {

// What was found to be wrong with the folder; not_found: no such layer; conflict: another operation on one of the
// experts, or fewer free slots than the new replicas of a layer need beside those in use.
[[nodiscard]] result<decision> check(const cluster_state& state, const refresh_weights& what);
// not_found: an epoch that is not remembered (any more), with those that are. conflict: as above, or the experts that
// took part then are too few for a row.
[[nodiscard]] result<decision> check(const cluster_state& state, const roll_back_placement& what);
// invalid_request: no expert, one twice, none or too many nodes for one. not_found: an expert or node that there is
// not. conflict: as above, a node that takes no work or whose slots would not suffice, an expert that is pinned or
// takes no part.
[[nodiscard]] result<decision> check(const cluster_state& state, const apply_placement& what);
// One operation on many experts at a time: two would wait for each other's slots. conflict, in_progress.
[[nodiscard]] result<void> check_alone(const cluster_state& state);

}  // namespace troupe::coordinator::bulk_commands
