#include "router_node/shell/router_metrics.hpp"

#include <algorithm>
#include <cmath>

#include "router_node/shell/generation_metrics.hpp"
#include "router_node/shell/openai_answer.hpp"

namespace troupe::router {
namespace {

constexpr double window_seconds = 60;
constexpr double host_bounds[] = {1, 2, 3, 4, 6, 8, 12, 16, 32, 64};  // of one row, or of one request

void append(std::vector<http::metric_family>& families, std::string name, std::string help, http::metric_kind kind,
            std::vector<std::pair<http::label_list, double>> samples) {
  http::metric_family family{std::move(name), std::move(help), kind};
  for (auto& [labels, value] : samples) family.add(std::move(labels), value);
  families.push_back(std::move(family));
}

// In nats; 0 when all goes to one, ln N when it is spread evenly.
double entropy(const std::vector<double>& counts) {
  double total = 0;
  for (const auto c : counts) total += c;
  double sum = 0;
  for (const auto c : counts) {
    if (c > 0) sum -= c / total * std::log(c / total);
  }
  return sum;
}

}  // namespace

router_metrics::layer_counters::layer_counters(const layer_plan& plan)
    : name(to_string(plan.id)),
      id(plan.id),
      calls(plan.num_experts),
      tokens(plan.num_experts),
      masked_mass(plan.num_experts),
      masked_rows(plan.num_experts),
      rows_while_masked(plan.num_experts),
      hosts_per_row(host_bounds),
      messages_per_request(host_bounds),
      recent_tokens(plan.num_experts),
      pairs(plan.num_experts, plan.top_k) {}

router_metrics::router_metrics(const model_plan& plan) {
  for (const auto& layer : plan.layers()) layers_.push_back(std::make_unique<layer_counters>(layer));
}

router_metrics::layer_counters* router_metrics::find(layer_id id) {
  const auto at = std::ranges::lower_bound(layers_, id, {}, [](const auto& layer) { return layer->id; });
  return at != layers_.end() && (*at)->id == id ? at->get() : nullptr;
}

void router_metrics::on_call(const outgoing_call& call) {
  auto* layer = find(call.layer);
  if (layer == nullptr) return;
  layer->messages.add();
  for (const auto& e : call.experts) {
    layer->calls[e.expert].add();
    layer->tokens[e.expert].add(e.assignments);
    layer->recent_tokens[e.expert] += e.assignments;
  }
  layer->recent_rows[call.host.value] += static_cast<double>(call.row_index.size());
}

void router_metrics::on_answer(const answer_report& report) {
  if (report.fate != answer_fate::accepted) return;
  if (auto* layer = find(report.layer)) {
    layer->latency.observe(std::chrono::duration<double>(report.round_trip).count());
  }
}

void router_metrics::on_chosen(std::uint32_t place, const model::routing& routing) {
  layers_[place]->pairs.count(routing.expert_ids, routing.top_k);
}

void router_metrics::on_masked(std::uint32_t place, const model::masked_load& load, std::uint32_t rows) {
  auto& layer = *layers_[place];
  for (std::size_t e = 0; e < load.mass.size(); ++e) {
    layer.masked_mass[e].add(load.mass[e]);
    layer.masked_rows[e].add(static_cast<double>(load.rows[e]));
    if (load.mass[e] > 0) layer.rows_while_masked[e] += rows;
  }
}

void router_metrics::on_limited(std::uint32_t place, const model::routing& routing) {
  layers_[place]->limited_rows.add(static_cast<double>(std::ranges::count(routing.limited, std::uint8_t{1})));
}

void router_metrics::on_spread(std::uint32_t place, std::span<const std::uint32_t> hosts_of_row,
                               std::uint32_t messages) {
  auto& layer = *layers_[place];
  for (const auto hosts : hosts_of_row) layer.hosts_per_row.observe(hosts);
  layer.messages_per_request.observe(messages);
}

void router_metrics::on_explored(std::uint32_t place, const model::routing& routing) {
  layers_[place]->explored_rows.add(static_cast<double>(std::ranges::count(routing.explored, std::uint8_t{1})));
}

void router_metrics::on_cold_inputs(std::uint64_t rows, std::uint64_t bytes) {
  cold_rows_.set(static_cast<double>(rows));
  cold_bytes_.set(static_cast<double>(bytes));
}

std::vector<router_metrics::masked_total> router_metrics::masked_totals() const {
  std::vector<masked_total> totals;
  for (const auto& layer : layers_) {
    for (std::uint32_t e = 0; e < layer->rows_while_masked.size(); ++e) {
      if (layer->rows_while_masked[e] == 0) continue;
      totals.push_back({{layer->id, e}, layer->rows_while_masked[e], layer->masked_mass[e].value()});
    }
  }
  return totals;
}

std::vector<router_metrics::pairs_of_layer> router_metrics::take_pairs() {
  std::vector<pairs_of_layer> taken;
  const auto turn = pair_turns_++;
  for (auto place = turn % limits::pair_reports; place < layers_.size(); place += limits::pair_reports) {
    auto& layer = *layers_[place];
    auto counts = layer.pairs.take();
    if (counts.rows > 0) taken.push_back({layer.id, turn + 1, std::move(counts)});
  }
  return taken;
}

std::vector<router_metrics::paced_node> router_metrics::paced_nodes() const {
  std::lock_guard lock(mutex_);
  std::vector<paced_node> nodes;
  for (const auto& h : hosts_) {
    if (!h.pace_reason.empty()) nodes.push_back({{h.name}, h.pace, h.pace_reason});
  }
  return nodes;
}

void router_metrics::on_request(const finished_request& finished, double seconds) {
  duration_.observe(seconds);
  const auto* reason = std::get_if<error>(&finished.outcome);
  if (reason == nullptr) return requests_ok_.add();
  (reason->code == errc::timeout ? requests_expired_ : requests_error_).add();
}

void router_metrics::on_rows(const finished_request& finished, std::uint32_t rows) {
  if (std::holds_alternative<error>(finished.outcome)) return rows_failed_.add(rows);
  for (const auto flags : std::get<layer_result>(finished.outcome).flags) {
    if ((flags & flag_substituted) != 0) {
      rows_substituted_.add();
    } else if ((flags & flag_renormalised) != 0) {
      rows_renormalised_.add();
    } else if ((flags & flag_dropped) != 0) {
      rows_dropped_.add();
    } else if ((flags & flag_missing) == 0) {  // a missing row is asked for again, or its text fails
      rows_exact_.add();
    }
  }
}

void router_metrics::on_refused(errc code) {
  (code == errc::timeout ? requests_expired_ : code == errc::overloaded ? requests_rejected_ : requests_error_).add();
}

void router_metrics::on_stream_end(std::optional<errc> failure) {
  if (!failure) return requests_ok_.add();
  (*failure == errc::timeout      ? requests_expired_
   : *failure == errc::overloaded ? requests_rejected_
                                  : requests_error_)
      .add();
}

void router_metrics::refresh(double seconds_passed, const dispatcher& d, std::uint64_t requests,
                             std::uint64_t bytes_out, std::uint64_t bytes_in, std::uint64_t reconnects) {
  const double kept = std::exp(-seconds_passed / window_seconds);
  for (auto& layer : layers_) {
    layer->entropy.set(entropy(layer->recent_tokens));
    double most = 0;
    double sum = 0;
    for (auto& [host, rows] : layer->recent_rows) {
      most = std::max(most, rows);
      sum += rows;
      rows *= kept;
    }
    layer->imbalance.set(sum > 0 ? most * static_cast<double>(layer->recent_rows.size()) / sum : 1);
    std::erase_if(layer->recent_rows, [](const auto& host) { return host.second < 1e-3; });
    for (auto& tokens : layer->recent_tokens) tokens *= kept;
  }
  const auto set = [](http::gauge& target, std::uint64_t value) { target.set(static_cast<double>(value)); };
  const auto& counted = d.counters();
  set(bytes_out_, bytes_out);
  set(bytes_in_, bytes_in);
  set(reconnects_, reconnects);
  set(running_, requests - std::min<std::uint64_t>(requests, d.requests_waiting()));
  set(waiting_, d.requests_waiting());
  set(retries_, counted.retries);
  set(timed_out_, counted.timed_out_calls);
  set(refused_, counted.refused_calls);
  set(lost_, counted.lost_calls);
  set(late_, counted.late_answers);
  set(repeated_, counted.repeated_answers);
  set(foreign_, counted.foreign_answers);
  set(hedges_won_, counted.hedges_won);
  set(hedges_lost_, counted.hedges_lost);
  set(hedges_abandoned_, counted.hedges_abandoned);
  set(hedges_denied_, counted.hedges_denied);
  std::vector<host_gauge> hosts;
  for (const auto& h : d.hosts().all()) {
    if (h.expected) {
      hosts.push_back({h.name.value, std::holds_alternative<link_ready>(h.link), h.pace, h.slowness, h.pace_reason});
    }
  }
  std::lock_guard lock(mutex_);
  hosts_ = std::move(hosts);
}

void router_metrics::use_map(std::shared_ptr<const cluster_map> map) {
  std::lock_guard lock(mutex_);
  map_ = std::move(map);
}

void router_metrics::on_text(text_outcome outcome) {
  texts_.at(static_cast<std::size_t>(outcome)).fetch_add(1, std::memory_order_relaxed);
}

void router_metrics::collect(std::vector<http::metric_family>& families, const text_load& texts) const {
  collect_layers(families);
  collect_requests(families, texts);
  collect_totals(families);
  collect_map(families);
}

void router_metrics::collect_layers(std::vector<http::metric_family>& families) const {
  using enum http::metric_kind;
  http::metric_family calls{"moe_expert_calls_total", "Calls that asked an expert for rows.", counter};
  http::metric_family tokens{"moe_expert_tokens_total", "Rows that were sent to an expert.", counter};
  http::metric_family mass{"moe_masked_gate_mass_total",
                           "Gate probability that rows gave to an expert which was masked: pruned, or not added yet.",
                           counter};
  http::metric_family masked{"moe_masked_rows_total", "Rows that would have chosen an expert which was masked.",
                             counter};
  http::metric_family latency{"moe_expert_latency_seconds", "From a call to an expert host to its answer.", histogram};
  http::metric_family messages{"moe_dispatch_messages_total",
                               "Calls to expert hosts: one per host and layer of a request, and retries.", counter};
  http::metric_family limited{"moe_group_limited_rows_total",
                              "Rows that chose other experts because they choose in some groups only.", counter};
  http::metric_family explored{"moe_explored_rows_total", "Rows that tried a cold expert instead of their last choice.",
                               counter};
  http::metric_family row_hosts{"moe_dispatch_nodes_per_row",
                                "Expert hosts that a row was sent to; a retry or hedge counts again.", histogram};
  http::metric_family calls_made{"moe_dispatch_messages_per_request",
                                 "Calls to expert hosts that one request for a layer took.", histogram};
  http::metric_family spread{"moe_router_entropy",
                             "Entropy of the load over the layer's experts in the last minute, in nats.", gauge};
  http::metric_family ratio{"moe_expert_load_imbalance_ratio",
                            "Most over mean of the rows that hosts got in the last minute.", gauge};
  for (const auto& layer : layers_) {
    const std::pair<std::string, std::string> label{"layer", layer->name};
    for (std::size_t e = 0; e < layer->calls.size(); ++e) {
      calls.add({label, {"expert", std::to_string(e)}}, layer->calls[e].value());
      tokens.add({label, {"expert", std::to_string(e)}}, layer->tokens[e].value());
      if (layer->masked_mass[e].value() == 0) continue;  // most experts, for ever
      mass.add({label, {"expert", std::to_string(e)}}, layer->masked_mass[e].value());
      masked.add({label, {"expert", std::to_string(e)}}, layer->masked_rows[e].value());
    }
    latency.add({label}, layer->latency);
    messages.add({label}, layer->messages.value());
    limited.add({label}, layer->limited_rows.value());
    explored.add({label}, layer->explored_rows.value());
    row_hosts.add({label}, layer->hosts_per_row);
    calls_made.add({label}, layer->messages_per_request);
    spread.add({label}, layer->entropy.value());
    ratio.add({label}, layer->imbalance.value());
  }
  for (auto* family : {&calls, &tokens, &mass, &masked, &latency, &messages, &limited, &explored, &row_hosts,
                       &calls_made, &spread, &ratio})
    families.push_back(std::move(*family));
}

// What clients have asked for, through every door: layers and texts.
void router_metrics::collect_requests(std::vector<http::metric_family>& families, const text_load& texts) const {
  using enum http::metric_kind;
  const auto count = [this](text_outcome outcome, const http::counter& others) {
    const auto of_texts = texts_.at(static_cast<std::size_t>(outcome)).load(std::memory_order_relaxed);
    return others.value() + static_cast<double>(of_texts);
  };
  append(families, "moe_requests_total", "Requests of clients by outcome.", counter,
         {{{{"outcome", "ok"}}, count(text_outcome::ok, requests_ok_)},
          {{{"outcome", "error"}}, count(text_outcome::error, requests_error_)},
          {{{"outcome", "aborted"}}, count(text_outcome::aborted, requests_aborted_)},
          {{{"outcome", "rejected"}}, count(text_outcome::rejected, requests_rejected_)},
          {{{"outcome", "expired"}}, count(text_outcome::expired, requests_expired_)}});
  append(families, "moe_requests_running", "Requests of clients in progress.", gauge,
         {{{}, running_.value() + texts.running}});
  append(families, "moe_requests_waiting", "Requests that wait for a replica, or texts for a place.", gauge,
         {{{}, waiting_.value() + texts.waiting}});
}

void router_metrics::collect_totals(std::vector<http::metric_family>& families) const {
  using enum http::metric_kind;
  append(families, "moe_tokens_total", "Rows by outcome.", counter,
         {{{{"outcome", "exact"}}, rows_exact_.value()},
          {{{"outcome", "substituted"}}, rows_substituted_.value()},
          {{{"outcome", "renormalised"}}, rows_renormalised_.value()},
          {{{"outcome", "dropped"}}, rows_dropped_.value()},
          {{{"outcome", "failed"}}, rows_failed_.value()}});
  append(families, "moe_dispatch_bytes_total", "Tensor bytes between router and hosts.", counter,
         {{{{"direction", "out"}}, bytes_out_.value()}, {{{"direction", "in"}}, bytes_in_.value()}});
  append(families, "moe_call_failures_total", "Calls that were given up, by cause.", counter,
         {{{{"cause", "timed_out"}}, timed_out_.value()},
          {{{"cause", "refused"}}, refused_.value()},
          {{{"cause", "lost"}}, lost_.value()}});
  append(families, "moe_call_retries_total", "Calls for rows that an earlier call did not get.", counter,
         {{{}, retries_.value()}});
  append(families, "moe_hedged_calls_total",
         "Calls for rows that a slow host had been asked for too, by how they ended.", counter,
         {{{{"outcome", "won"}}, hedges_won_.value()},
          {{{"outcome", "lost"}}, hedges_lost_.value()},
          {{{"outcome", "abandoned"}}, hedges_abandoned_.value()}});
  append(families, "moe_hedges_denied_total", "Slow calls that were not hedged for want of budget.", counter,
         {{{}, hedges_denied_.value()}});
  append(families, "moe_answers_discarded_total", "Answers that were recognised as not wanted and dropped.", counter,
         {{{{"reason", "late"}}, late_.value()},
          {{{"reason", "repeated"}}, repeated_.value()},
          {{{"reason", "foreign"}}, foreign_.value()}});
  append(families, "moe_frames_rejected_total", "Messages that could not be used.", counter,
         {{{{"reason", "malformed"}}, bad_messages_.value()}});
  append(families, "moe_reconnects_total", "Links to expert hosts that were made anew.", counter,
         {{{}, reconnects_.value()}});
  append(families, "moe_replay_cache_bytes", "Answers that are kept for requests that clients repeat.", gauge,
         {{{}, replay_cache_bytes_.value()}});
  append(families, "moe_cold_inputs_rows", "Rows of cold experts that are kept for training.", gauge,
         {{{}, cold_rows_.value()}});
  append(families, "moe_cold_inputs_bytes", "Memory that is set aside for them.", gauge, {{{}, cold_bytes_.value()}});
  http::metric_family duration{"moe_request_duration_seconds", "From a layer request to its answer.", histogram};
  duration.add({{"stage", "layer"}}, duration_);
  families.push_back(std::move(duration));
}

void router_metrics::collect_map(std::vector<http::metric_family>& families) const {
  using enum http::metric_kind;
  std::shared_ptr<const cluster_map> map;
  http::metric_family peers{"moe_peer_up", "1: the link to this expert host is ready.", gauge};
  http::metric_family slow{"moe_node_slow", "1: gets less work because its calls take long; 2: quarantined.", gauge};
  http::metric_family slowness{"moe_node_slowness_ratio",
                               "Time of the node's calls over what such calls take elsewhere; 1 while normal.", gauge};
  {
    std::lock_guard lock(mutex_);
    map = map_;
    for (const auto& h : hosts_) {
      peers.add({{"peer", h.name}}, h.is_up ? 1 : 0);
      slow.add({{"node", h.name}}, static_cast<double>(h.pace));
      slowness.add({{"node", h.name}}, h.slowness);
    }
  }
  for (auto* family : {&peers, &slow, &slowness}) families.push_back(std::move(*family));
  append(families, "moe_placement_epoch", "Epoch of the cluster map this router works by; 0: none yet.", gauge,
         {{{}, map ? static_cast<double>(map->epoch.value) : 0.0}});
  if (!map) return;
  http::metric_family replicas{"moe_expert_replicas", "Replicas that may be used.", gauge};
  http::metric_family states{"moe_expert_state", "1 for the state that the expert is in.", gauge};
  for (const auto& e : map->experts) {
    const http::label_list labels{{"layer", to_string(e.id.layer)}, {"expert", std::to_string(e.id.index)}};
    replicas.add(labels, static_cast<double>(e.replicas.size()));
    auto with_state = labels;
    with_state.emplace_back("state", to_string(e.state));
    states.add(std::move(with_state), 1);
  }
  families.push_back(std::move(replicas));
  families.push_back(std::move(states));
}

}  // namespace troupe::router
