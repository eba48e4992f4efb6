// Lets the policies look at the cluster now and then, and starts what they propose as operations, by the same checks as
// an operator's commands. An operation of a policy names it and its figures; it can be watched and cancelled like any
// other.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::policy_runner {

// What the policies look at.
[[nodiscard]] policy_input look(const cluster_state& state);
// Every limits::policy_interval, in a settled cluster whose state can be written.
void pass(cluster_state& state);
// Tells a router which experts are cold, when what it knows is something else.
void tell_cold(cluster_state& state, const node_entry& router, const node_id& name, std::uint64_t known);

}  // namespace troupe::coordinator::policy_runner
