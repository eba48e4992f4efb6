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

std::uint64_t ended(const operation_totals& totals, operation_kind kind, operation_state how) {
  const auto found = totals.ended.find({kind, how});
  return found == totals.ended.end() ? 0 : found->second;
}

void add_totals(const operation_totals& totals, std::vector<metric_family>& families) {
  const auto count = [&](const char* name, const char* help, std::uint64_t value) {
    add_one(families, name, help, metric_kind::counter, static_cast<double>(value));
  };
  const auto done = ended(totals, operation_kind::migrate, operation_state::done);
  count("moe_migration_started_total", "Migrations of an expert that have begun.", totals.migrations_begun);
  count("moe_migration_completed_total", "Migrations whose expert serves from its new node.", done);
  count("moe_migration_failed_total", "Migrations that could not be completed and were taken back.",
        ended(totals, operation_kind::migrate, operation_state::failed) +
            ended(totals, operation_kind::migrate, operation_state::rolled_back));
  count("moe_pruned_experts_total", "Experts that were pruned, by operators or by the policy.",
        ended(totals, operation_kind::prune, operation_state::done));
  count("moe_refresh_unchanged_total", "Refreshes that found nothing new.", totals.refreshes_unchanged);
  metric_family took{"moe_migration_duration_seconds", "From the request to the end of a completed migration.",
                     metric_kind::histogram};
  http::metric_sample sample{.labels = {}, .sum = totals.migration_seconds};
  sample.bounds.assign(operation_totals::seconds_bounds.begin(), operation_totals::seconds_bounds.end());
  std::uint64_t sum = 0;
  for (const auto in_bucket : totals.migrations_by_seconds) sample.cumulative.push_back(sum += in_bucket);
  took.samples.push_back(std::move(sample));
  families.push_back(std::move(took));
  if (totals.refreshed_unix_ms == 0) return;  // never: an alert on its age must not fire
  add_one(families, "moe_refresh_last_success_timestamp_seconds",
          "When weights were last found to be, or made, as new as their folder.", metric_kind::gauge,
          static_cast<double>(totals.refreshed_unix_ms) / 1e3);
}

void add_peers(const public_view& view, std::vector<metric_family>& families) {
  metric_family up{"moe_peer_up", "1: the node is heard.", metric_kind::gauge};
  metric_family missed{"moe_heartbeats_missed_total", "Heartbeats of the node that did not come.",
                       metric_kind::counter};
  metric_family restarts{"moe_actor_restarts_total",
                         "How often the node came back as another process, its actors with it; coordinator: since the "
                         "cluster was made, nodes: since the coordinator's start.",
                         metric_kind::counter};
  restarts.add({{"name", "coordinator"}}, static_cast<double>(view.map->term.value - 1));
  for (const auto& [node, peer] : view.peers) {
    up.add({{"peer", node.value}}, peer.is_up ? 1 : 0);
    missed.add({{"peer", node.value}}, static_cast<double>(peer.heartbeats_missed));
    restarts.add({{"name", node.value}}, static_cast<double>(peer.restarts));
  }
  for (auto* family : {&up, &missed, &restarts}) families.push_back(std::move(*family));
  families.push_back(http::mailbox_family(view.mailboxes));
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
    for (const auto& [what, count] : view->totals.ended) {
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
    add_totals(view->totals, families);
    add_peers(*view, families);
    add_experts(*view->map, families);
  };
}

std::vector<http::check> readiness(const public_view& view) {
  return {{"store", view.store_ok, view.store_ok ? "" : "the state cannot be written"},
          {"placement", view.state != "starting" && !view.state.empty(), "the first placement is not complete"}};
}

}  // namespace troupe::coordinator
