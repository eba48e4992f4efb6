#include "router_node/shell/stats_message.hpp"

#include "common/expert_pairs.hpp"
#include "proto/node_coordinator.pb.h"
#include "router_node/shell/router_metrics.hpp"

namespace troupe::router {

void put_stats(router_metrics& metrics, proto::NodeStats& stats) {
  for (const auto& total : metrics.masked_totals()) {
    auto& line = *stats.add_experts();
    line.set_layer(total.expert.layer.value);
    line.set_expert(total.expert.index);
    line.set_masked_rows_total(total.rows);
    line.set_masked_mass_total(total.mass);
  }
  for (const auto& node : metrics.paced_nodes()) {
    auto& line = *stats.add_paces();
    line.set_node(node.name.value);
    line.set_pace(static_cast<proto::Pace>(node.pace));
    line.set_reason(node.reason);
  }
  for (const auto& taken : metrics.take_pairs()) {
    auto& layer = *stats.add_pairs();
    layer.set_layer(taken.layer.value);
    layer.set_number(taken.number);
    to_proto(taken.counts, layer);
  }
}

}  // namespace troupe::router
