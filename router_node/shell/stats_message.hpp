// What a router tells its coordinator about once a second, of what it counts. The router's thread.
#pragma once

namespace troupe::proto {
class NodeStats;
}

namespace troupe::router {

class router_metrics;

// What masks have cost, how fast expert nodes are, and which experts are chosen together (which is told once).
void put_stats(router_metrics& metrics, proto::NodeStats& stats);

}  // namespace troupe::router
