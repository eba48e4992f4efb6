#include "expert_node/shell/node_metrics.hpp"

#include <chrono>
#include <utility>

#include "expert_node/shell/data_server.hpp"
#include "expert_node/shell/loader.hpp"
#include "expert_node/shell/peer_server.hpp"

namespace troupe::expert {
namespace {

using http::metric_family;
using http::metric_kind;

metric_family single(std::string name, std::string help, metric_kind kind, double value, http::label_list labels = {}) {
  metric_family family{std::move(name), std::move(help), kind};
  family.add(std::move(labels), value);
  return family;
}

}  // namespace

node_metrics::node_metrics(std::string node) : node_{std::move(node)}, batch_seconds_{http::latency_bounds()} {}

void node_metrics::call_answered(const expert_call& call) {
  if (call.outcome.failed) return;
  std::lock_guard lock{mutex_};
  auto& histogram = latency_[call.layer];
  if (histogram == nullptr) histogram = std::make_unique<http::histogram>(http::latency_bounds());
  histogram->observe(std::chrono::duration<double>(call.outcome.waited + call.outcome.computed).count());
}

void node_metrics::batch_computed(double seconds) { batch_seconds_.observe(seconds); }

void node_metrics::use(const statistics_report& report) {
  std::lock_guard lock{mutex_};
  for (const auto& line : report.changed) experts_[line.expert] = line.totals;
  last_ = report;
  last_.changed.clear();
}

void node_metrics::register_with(http::metrics_registry& registry, metric_sources sources) {
  sources_ = std::move(sources);
  registry.add([this](std::vector<metric_family>& families) {
    collect_experts(families);
    collect_sockets(families);
    collect_loading(families);
  });
}

void node_metrics::collect_experts(std::vector<metric_family>& families) const {
  metric_family calls{"moe_expert_calls_total", "calls that an expert has computed for", metric_kind::counter};
  metric_family tokens{"moe_expert_tokens_total", "rows that an expert has computed", metric_kind::counter};
  metric_family seconds{"moe_expert_compute_seconds_total", "device time of an expert", metric_kind::counter};
  metric_family latency{"moe_expert_latency_seconds", "from a call's arrival until it is computed",
                        metric_kind::histogram};
  std::lock_guard lock{mutex_};
  for (const auto& [expert, totals] : experts_) {
    const http::label_list labels{{"layer", to_string(expert.layer)}, {"expert", std::to_string(expert.index)}};
    calls.add(labels, static_cast<double>(totals.calls));
    tokens.add(labels, static_cast<double>(totals.rows));
    seconds.add(labels, totals.seconds);
  }
  for (const auto& [layer, histogram] : latency_) latency.add({{"layer", to_string(layer)}}, *histogram);
  metric_family batches{"moe_expert_batch_seconds", "compute time of one merged batch", metric_kind::histogram};
  batches.add({{"host", node_}}, batch_seconds_);
  const http::label_list host{{"host", node_}};
  metric_family outcomes{"moe_expert_host_calls_total", "calls by what became of them", metric_kind::counter};
  outcomes.add({{"outcome", "computed"}}, static_cast<double>(last_.host.calls_computed));
  outcomes.add({{"outcome", "expired"}}, static_cast<double>(last_.host.calls_expired));
  outcomes.add({{"outcome", "failed"}}, static_cast<double>(last_.host.calls_failed));
  outcomes.add({{"outcome", "not_held"}}, static_cast<double>(last_.host.calls_not_held));
  for (auto* family : {&calls, &tokens, &seconds, &latency, &batches, &outcomes}) {
    families.push_back(std::move(*family));
  }
  families.push_back(single("moe_expert_queue_depth", "rows that wait for the device", metric_kind::gauge,
                            static_cast<double>(last_.queue_rows), host));
  families.push_back(single("moe_expert_slots_used", "slots that are not empty", metric_kind::gauge,
                            static_cast<double>(last_.slots_used), host));
  families.push_back(single("moe_expert_resident_bytes", "bytes of served experts, packed", metric_kind::gauge,
                            static_cast<double>(last_.resident_bytes), host));
}

void node_metrics::collect_sockets(std::vector<metric_family>& families) const {
  if (sources_.epoch) {
    families.push_back(single("moe_placement_epoch", "newest cluster map this node works by", metric_kind::gauge,
                              static_cast<double>(sources_.epoch())));
  }
  if (sources_.data == nullptr) return;
  const auto& data = *sources_.data;
  metric_family refused{"moe_frames_rejected_total", "messages of routers that were refused", metric_kind::counter};
  refused.add({{"reason", "malformed"}}, data.messages_rejected.value());
  refused.add({{"reason", "invalid"}}, data.calls_invalid.value());
  refused.add({{"reason", "overloaded"}}, data.calls_overloaded.value());
  refused.add({{"reason", "repeated"}}, data.calls_repeated.value());
  refused.add({{"reason", "expired"}}, data.calls_expired.value());
  families.push_back(std::move(refused));
  metric_family bytes{"moe_dispatch_bytes_total", "rows by direction, as this node sees it", metric_kind::counter};
  bytes.add({{"direction", "in"}}, data.bytes_received.value());
  bytes.add({{"direction", "out"}}, data.bytes_sent.value());
  families.push_back(std::move(bytes));
  metric_family answers{"moe_expert_answers_total", "answers handed to the socket, or dropped", metric_kind::counter};
  answers.add({{"outcome", "sent"}}, data.answers_sent.value());
  answers.add({{"outcome", "dropped"}}, data.answers_dropped.value());
  families.push_back(std::move(answers));
  families.push_back(single("moe_expert_rows_in_flight", "rows admitted and not yet answered", metric_kind::gauge,
                            data.rows_in_flight.value()));
  families.push_back(
      single("moe_expert_routers", "routers that have said hello", metric_kind::gauge, data.routers.value()));
}

void node_metrics::collect_loading(std::vector<metric_family>& families) const {
  if (sources_.loading != nullptr) {
    const auto& loading = *sources_.loading;
    metric_family loads{"moe_expert_loads_total", "bundles loaded, by source; failed ones", metric_kind::counter};
    loads.add({{"source", "checkpoint"}}, loading.loads_from_checkpoint.value());
    const auto linked = loading.loads_over_links.value();
    loads.add({{"source", "peer"}}, loading.loads_from_peer.value() - linked);
    loads.add({{"source", "gpu"}}, linked);
    loads.add({{"source", "failed"}}, loading.loads_failed.value());
    families.push_back(std::move(loads));
    metric_family seconds{"moe_expert_load_seconds", "from the order to a verified, packed bundle, by source",
                          metric_kind::histogram};
    seconds.add({{"source", "checkpoint"}}, loading.seconds_from_checkpoint);
    seconds.add({{"source", "peer"}}, loading.seconds_from_peer);
    seconds.add({{"source", "gpu"}}, loading.seconds_over_links);
    families.push_back(std::move(seconds));
    families.push_back(single("moe_expert_load_bytes_total", "bundle bytes loaded", metric_kind::counter,
                              loading.bytes_loaded.value()));
    families.push_back(single("moe_expert_digest_mismatches_total", "bundles whose SHA-256 was wrong",
                              metric_kind::counter, loading.digest_mismatches.value()));
  }
  if (sources_.peers != nullptr) {
    families.push_back(single("moe_migration_bytes_total", "bundle bytes sent to other expert nodes",
                              metric_kind::counter, sources_.peers->bytes_sent.value()));
  }
}

}  // namespace troupe::expert
