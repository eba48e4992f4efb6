// What a node's metrics page says of its link to the coordinator.
#pragma once

#include <vector>

#include "common/http/metrics.hpp"

namespace troupe::node {

class coordinator_link;

// moe_peer_up, moe_peer_rtt_seconds and moe_heartbeats_missed_total of peer="coordinator". nullptr: there is no link
// yet.
void append_link_metrics(const coordinator_link* link, std::vector<http::metric_family>& families);

}  // namespace troupe::node
