#include "coordinator/shell/metrics.hpp"

#include <string>

namespace troupe::coordinator {
namespace {

using http::metric_family;
using http::metric_kind;

void add_experts(const cluster_map& map, std::vector<metric_family>& families) {
  metric_family replicas{"moe_expert_replicas", "Replicas of the expert that routers may use.", metric_kind::gauge};
  metric_family states{"moe_expert_state", "1 for the state that the expert is in.", metric_kind::gauge};
  for (const auto& expert : map.experts) {
    http::label_list labels{{"layer", to_string(expert.id.layer)}, {"expert", std::to_string(expert.id.index)}};
    replicas.add(labels, static_cast<double>(expert.replicas.size()));
    labels.emplace_back("state", to_string(expert.state));
    states.add(std::move(labels), 1);
  }
  families.push_back(std::move(replicas));
  families.push_back(std::move(states));
}

void add_one(std::vector<metric_family>& families, const char* name, const char* help, metric_kind kind, double value) {
  metric_family family{name, help, kind};
  family.add({}, value);
  families.push_back(std::move(family));
}

}  // namespace

http::metrics_registry::source coordinator_metrics(std::shared_ptr<const public_view_box> box) {
  return [box = std::move(box)](std::vector<metric_family>& families) {
    auto view = box->get();
    if (!view->map) return;
    add_one(families, "moe_placement_epoch", "Number of the newest cluster map.", metric_kind::gauge,
            static_cast<double>(view->map->epoch.value));
    add_one(families, "moe_coordinator_term", "Number of this coordinator.", metric_kind::gauge,
            static_cast<double>(view->map->term.value));
    add_one(families, "moe_unroutable_experts", "Experts without any replica.", metric_kind::gauge, view->unroutable);
    add_one(families, "moe_operations_running", "Operations in progress.", metric_kind::gauge,
            view->operations_running);
    add_one(families, "moe_pinned_replicas", "Replicas of versions that are served no more, kept for pinned texts.",
            metric_kind::gauge, view->pinned_replicas);
    add_one(families, "moe_nodes_lost_total", "Nodes that were declared lost.", metric_kind::counter,
            static_cast<double>(view->nodes_lost));
    metric_family operations{"moe_operations_total", "Operations that have ended.", metric_kind::counter};
    operations.add({{"kind", "load"}, {"outcome", "done"}}, static_cast<double>(view->loads_done));
    operations.add({{"kind", "load"}, {"outcome", "failed"}}, static_cast<double>(view->loads_failed));
    for (const auto& [what, count] : view->operations_ended) {
      operations.add({{"kind", std::string(to_string(what.first))}, {"outcome", std::string(to_string(what.second))}},
                     static_cast<double>(count));
    }
    families.push_back(std::move(operations));
    metric_family nodes{"moe_nodes", "Expert nodes and routers by state.", metric_kind::gauge};
    for (const auto& [state, count] : view->nodes_by_state) nodes.add({{"state", state}}, count);
    families.push_back(std::move(nodes));
    metric_family cold{"moe_cold_experts", "Experts with far less than the fair share of their layer's rows.",
                       metric_kind::gauge};
    for (const auto& [layer, count] : view->cold_experts) cold.add({{"layer", to_string(layer)}}, count);
    families.push_back(std::move(cold));
    add_experts(*view->map, families);
  };
}

std::vector<http::check> readiness(const public_view& view) {
  return {{"store", view.store_ok, view.store_ok ? "" : "the state cannot be written"},
          {"placement", view.state != "starting" && !view.state.empty(), "the first placement is not complete"}};
}

}  // namespace troupe::coordinator
