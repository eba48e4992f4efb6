// What operators ask for many experts at once: other weights, or the placement of an earlier epoch. Checked like the
// commands on one expert (expert_commands.hpp) and turned into one operation.
#pragma once

#include "coordinator/core/expert_commands.hpp"

namespace troupe::coordinator::refresh_commands {

// What was found to be wrong with the folder; not_found: no such layer; conflict: another operation on one of the
// experts, or fewer free slots than the new replicas of a layer need beside those in use.
[[nodiscard]] result<decision> check(const cluster_state& state, const refresh_weights& what);
// not_found: an epoch that is not remembered (any more), with those that are. conflict: as above, or the experts that
// took part then are too few for a row.
[[nodiscard]] result<decision> check(const cluster_state& state, const roll_back_placement& what);

}  // namespace troupe::coordinator::refresh_commands
