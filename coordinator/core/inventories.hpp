// From what a node reports to what the coordinator believes about its slots. The node's report wins, except that a
// replica which is on its way out stays on its way out.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::inventories {

void apply(cluster_state& state, const inventory_report& report);
// Remembers that `node` could not load `expert`: it is not asked again for a while, longer each time.
void note_failure(cluster_state& state, const node_id& name, node_entry& node, const expert_id& expert,
                  const std::string& reason);

}  // namespace troupe::coordinator::inventories
