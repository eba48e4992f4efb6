// What is done again and again without anybody asking: every T hours or N batches
//
//   due ──> the folder is read, and what has changed there is refreshed ──> once that has ended: replicas change
//   places,
//           a bounded number (repacking.hpp), and the cold experts are noted ──> kept for `refresh history`
#pragma once

#include "coordinator/core/cluster_state.hpp"
#include "coordinator/core/expert_commands.hpp"

namespace troupe::coordinator::refresh_schedule {

// invalid_request: no absolute path, more often than every second, or too many moves. not_found: nothing is scheduled
// that could be paused.
[[nodiscard]] result<decision> check(const cluster_state& state, const schedule_refresh& what);

// Asks for the scheduled folder to be read when that is due, and goes on from there. After a long stop once, however
// often it was missed. A restart goes on with the batches that were counted limits::schedule_count_interval before the
// stop; what routers do meanwhile is not counted.
void pass(cluster_state& state);
// What became of the refresh that pass() asked for.
void refreshed(cluster_state& state, const result<command_outcome>& outcome);

}  // namespace troupe::coordinator::refresh_schedule
