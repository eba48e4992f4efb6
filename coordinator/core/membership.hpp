// Who belongs to the cluster: joins, leaves, heartbeats and what silence means. Time is state.now.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::membership {

void join(cluster_state& state, const join_request& request);
void leave(cluster_state& state, const leave_request& request);
void heard(cluster_state& state, const heartbeat& beat);
// Anything at all came from the node.
void note_sign_of_life(cluster_state& state, const node_id& name, node_entry& node);
// Moves every node on that time alone moves on: suspect, lost, back, quarantine, contested names.
void advance(cluster_state& state);
// The coordinator itself was not running for `pause`: nobody's silence in that time counts (faults.md K3).
void forgive_silence(cluster_state& state, duration pause);
void lose(cluster_state& state, const node_id& name, std::string reason);
// What a router makes of the nodes' call times; what has changed becomes an event.
void note_paces(cluster_state& state, const node_id& router, node_entry& entry, const std::vector<pace_report>& paces);
// A living node that gets no work for that reason, until then (none: until it is started anew); its replicas do not
// count any more. Once told, it is not told again.
void quarantine(cluster_state& state, const node_id& name, node_entry& node, const std::string& reason,
                std::optional<time_point> until);

}  // namespace troupe::coordinator::membership
