// Pruning judges an expert by a whole day (policy_settings::prune_window). What was seen of it is written every now and
// then, so that a restart does not begin the day anew. Free functions over the coordinator's state.
#pragma once

#include <vector>

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::prune_watch {

// Goes on from what the disk holds, unless the window has another length now, or more than
// limits::prune_gap_share of it was not seen: then the watch begins anew. Rows between the last record and the first
// report of a node that was there before are not counted.
void restore(cluster_state& state, const durable_state& durable);

// Writes what was seen so far when that is due. @pre the policy is on, and nothing is on its way to the disk
void pass(cluster_state& state);

}  // namespace troupe::coordinator::prune_watch
