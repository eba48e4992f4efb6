// One pass from wanted to seen: plans the placement and emits the next small steps. Loads are ordered within a bound
// per node; a replica leaves the map only when its successors serve and every live router knows them; a slot is freed
// only when every live router has acknowledged a map without it. Orders without a visible effect are repeated.
#pragma once

#include <span>

#include "coordinator/core/cluster_state.hpp"
#include "coordinator/core/placement_planner.hpp"

namespace troupe::coordinator::reconciler {

void pass(cluster_state& state);

// The planner's view. `as_if`: wishes instead of those that experts have, to ask "what if".
[[nodiscard]] planner_input planner_view(const cluster_state& state, std::span<const wish_record> as_if = {});
// Every live router works by a map of this term that is not older than `epoch`.
[[nodiscard]] bool all_routers_know(const cluster_state& state, epoch_number epoch);
[[nodiscard]] bool is_published(const cluster_state& state, const node_id& node, slot_index slot,
                                const expert_id& expert);

}  // namespace troupe::coordinator::reconciler
