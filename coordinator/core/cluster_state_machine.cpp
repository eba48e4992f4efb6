#include "coordinator/core/cluster_state_machine.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "coordinator/core/admin_commands.hpp"
#include "coordinator/core/inventories.hpp"
#include "coordinator/core/membership.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/policy_runner.hpp"
#include "coordinator/core/prune_watch.hpp"
#include "coordinator/core/publisher.hpp"
#include "coordinator/core/reconciler.hpp"
#include "coordinator/core/refresh_schedule.hpp"
#include "model/gating.hpp"

namespace troupe::coordinator {
namespace {

// Of layers of another size than the model's nothing is believed.
void note_pairs(cluster_state& state, const stats_report& report) {
  for (const auto& [layer, number, counts] : report.pairs) {
    const auto num_experts = counts.expert_rows.size();
    if (num_experts == 0 || state.find({layer, static_cast<std::uint32_t>(num_experts)}) != nullptr) continue;
    if (state.find({layer, static_cast<std::uint32_t>(num_experts - 1)}) == nullptr) continue;
    state.pairs.report(report.node, report.incarnation, layer, number, counts, state.now);
  }
}

void note_stats(cluster_state& state, const stats_report& report) {
  auto* node = state.find_member(report.node, report.incarnation);
  if (node == nullptr) return;
  node->resident_set_bytes = report.resident_set_bytes;
  node->queue_rows = report.queue_rows;
  if (!node->is_expert()) {
    membership::note_paces(state, report.node, *node, report.paces);
    note_pairs(state, report);
  }
  std::uint64_t rows = 0;
  for (const auto& traffic : report.experts) {
    if (state.find(traffic.expert) == nullptr) continue;
    const auto& id = traffic.expert;
    rows += state.traffic.report(report.node, report.incarnation, id, traffic.rows_total, state.now);
    if (state.settings.policies.prunes) {
      state.long_traffic.report(report.node, report.incarnation, id, traffic.rows_total, state.now);
      auto thousandths = static_cast<std::uint64_t>(std::clamp(traffic.weighted_norm_total, 0.0, 1e15) * 1e3);
      state.long_norms.report(report.node, report.incarnation, id, thousandths, state.now);
    }
    if (traffic.masked_rows_total == 0) continue;  // all that expert nodes say
    state.masked_rows.report(report.node, report.incarnation, id, traffic.masked_rows_total, state.now);
    auto millionths = static_cast<std::uint64_t>(std::max(traffic.masked_mass_total, 0.0) * 1e6);
    state.masked_mass.report(report.node, report.incarnation, id, millionths, state.now);
  }
  if (node->stats_heard && *node->stats_heard < state.now) {
    node->rows_per_second =
        static_cast<double>(rows) / std::chrono::duration<double>(state.now - *node->stats_heard).count();
  }
  node->stats_heard = state.now;
  // Less than before: the router was started anew. What was before its first report is not counted.
  auto known = node->batches_heard.value_or(report.batches_total);
  state.batches += report.batches_total >= known ? report.batches_total - known : report.batches_total;
  node->batches_heard = report.batches_total;
  if (report.cold_fingerprint) policy_runner::tell_cold(state, *node, report.node, *report.cold_fingerprint);
}

node_entry restored_node(const node_record& record, time_point now) {
  node_entry node;
  node.incarnation = record.incarnation;
  node.facts = record.facts;
  node.removed = record.removed;
  node.last_heard = now;
  if (record.draining) node.drain = drain_operation{record.operation, 0, false};
  if (record.in_map && !record.removed) {
    node.life = node_expected{now + limits::restart_grace};
  } else {
    node.life = node_lost{now, record.removed ? "removed by an operator" : "not heard since the coordinator's restart"};
  }
  return node;
}

// The experts that do not take part at first. The first ones of each layer do; of a gate that keeps k groups, as many
// of each of the first k, so that a row finds its experts. invalid_request when that is too few.
result<std::vector<expert_id>> progressive_start(const cluster_settings& settings) {
  std::vector<expert_id> dormant;
  if (settings.active_experts == 0) return dormant;
  for (const auto& [layer, gate] : settings.gates) {
    const bool is_grouped = gate.num_groups > 1;
    const auto group_size = is_grouped ? gate.num_experts / gate.num_groups : 1;
    auto rank = [is_grouped, group_size, kept = std::max(gate.top_k_groups, 1U)](std::uint32_t e) {
      auto group = is_grouped ? e / group_size : 0;
      auto in_group = is_grouped ? e % group_size : e;
      return std::tuple(group >= kept, in_group, group);
    };
    std::vector<std::uint32_t> order(gate.num_experts);
    std::iota(order.begin(), order.end(), 0U);
    std::ranges::stable_sort(order, {}, rank);
    std::vector<std::uint8_t> mask(gate.num_experts);
    for (std::size_t i = 0; i < order.size(); ++i) {
      if (i < settings.active_experts) {
        mask[order[i]] = 1;
      } else {
        dormant.push_back({layer, order[i]});
      }
    }
    if (auto enough = model::check_mask(gate, mask); !enough) {
      return fail(errc::invalid_request,
                  fmt::format("{} active experts are too few for layer {}: {}", settings.active_experts,
                              to_string(layer), enough.error().message));
    }
  }
  return dormant;
}

}  // namespace

result<cluster_state_machine> cluster_state_machine::create(cluster_settings settings, const durable_state& durable,
                                                            time_point now) {
  if (durable.cluster && durable.cluster->cluster_id != settings.cluster_id) {
    return fail(errc::conflict,
                fmt::format("the state on disk belongs to cluster {}, this is {}; use another data folder",
                            durable.cluster->cluster_id, settings.cluster_id));
  }
  if (durable.cluster && durable.cluster->model_fingerprint != settings.model_fingerprint) {
    return fail(
        errc::conflict,
        fmt::format("the state on disk belongs to another model (fingerprint {:.12}, not {:.12}); start with the "
                    "same checkpoint folder, or use another data folder",
                    durable.cluster->model_fingerprint, settings.model_fingerprint));
  }
  if (settings.replication == 0 || settings.replication > limits::replicas_per_expert_max) {
    return fail(errc::invalid_request,
                fmt::format("replication {} is not in 1-{}", settings.replication, limits::replicas_per_expert_max));
  }
  auto dormant = progressive_start(settings);
  if (!dormant) return fail(dormant.error());
  auto state = std::make_unique<cluster_state>(std::move(settings));
  state->now = now;
  state->started = now;
  state->routers_back = durable.cluster ? now + limits::restart_grace : now;
  state->term = {durable.cluster ? durable.cluster->term.value + 1 : 1};
  state->first_started_unix_ms = durable.cluster ? durable.cluster->since_unix_ms : 0;
  if (state->first_started_unix_ms == 0) state->first_started_unix_ms = state->settings.started_unix_ms;
  cluster_state_machine machine(std::move(state));
  machine.restore(durable, durable.cluster ? std::vector<expert_id>{} : *dormant);
  return machine;
}

cluster_state_machine::cluster_state_machine(std::unique_ptr<cluster_state> state) : state_(std::move(state)) {}

void cluster_state_machine::restore(const durable_state& durable, const std::vector<expert_id>& dormant) {
  auto& state = *state_;
  auto map = publisher::map_of(durable, state.settings, state.term);
  for (const auto& record : durable.nodes) {
    state.nodes[record.node] = restored_node(record, state.now);
    state.durable_nodes[record.node] = record;
  }
  for (const auto& record : durable.experts) {
    auto* expert = state.find(record.expert);
    if (expert == nullptr) continue;
    expert->version = record.version;
    expert->digest = record.digest;
    state.durable_experts[static_cast<std::size_t>(expert - state.experts.data())] = record;
    if (record.state == expert_state::pruned) expert->life = expert_pruned{};
    if (!record.replicas.empty()) {
      expert->life = expert_active{static_cast<std::uint32_t>(record.replicas.size())};
      state.placed = state.settled = true;
    }
    for (const auto& replica : record.replicas) {
      auto* node = state.find(replica.node);
      if (node == nullptr || !std::holds_alternative<node_expected>(node->life)) continue;
      node->slots.emplace(replica.slot, slot_entry{record.expert, replica.version, slot_presumed{}, {}, 0});
    }
  }
  for (const auto& record : durable.commands) {
    state.commands[record.command_id] = {record.number, record.outcome};
    state.last_command_number = std::max(state.last_command_number, record.number);
  }
  for (const auto& record : durable.wishes) {
    if (auto* expert = state.find(record.expert)) expert->wish = record.wish;
  }
  for (const auto& record : durable.operations) {
    state.operations[record.number] = record;
    state.last_operation = std::max(state.last_operation, record.number);
  }
  for (const auto& record : durable.sources) {
    state.sources[record.version] = record;
    // When it was done is not on disk; it was after its beginning.
    if (record.state == operation_state::done)
      state.totals.refreshed_unix_ms = std::max(state.totals.refreshed_unix_ms, record.since_unix_ms);
  }
  state.schedule = durable.schedule;
  for (const auto& run : durable.runs) state.scheduled_runs.push_back(run);
  prune_watch::restore(state, durable);
  for (auto& [name, node] : state.nodes) {
    if (node.drain) node.drain->replicas_at_start = static_cast<std::uint32_t>(node.slots.size());
  }
  auto epoch = map.epoch;
  state.published = std::make_shared<const cluster_map>(std::move(map));
  publisher::restore_history(state, durable.epochs);
  std::vector<store_record> first{state.record(epoch)};
  for (const auto& id : dormant) {
    auto& expert = *state.find(id);
    expert.wish.presence = expert_presence::dormant;
    first.emplace_back(wish_record{id, expert.wish});
  }
  state.persist(std::move(first), {});
  state.tell(
      severity::info, "coordinator_started", state.settings.cluster_id,
      fmt::format("term {}, epoch {}, {} nodes are expected back", state.term.value, epoch.value, state.nodes.size()));
}

void cluster_state_machine::advance_clock(time_point now) {
  auto pause = now - state_->now;
  if (pause > limits::heartbeat_suspect_after) {
    membership::forgive_silence(*state_, pause);
    state_->routers_back += pause;
  }
  state_->now = std::max(state_->now, now);
}

void cluster_state_machine::step(const event& what, time_point now) {
  advance_clock(now);
  auto& state = *state_;
  std::visit(overloaded{
                 [&](const join_request& e) { membership::join(state, e); },
                 [&](const leave_request& e) { membership::leave(state, e); },
                 [&](const heartbeat& e) { membership::heard(state, e); },
                 [&](const inventory_report& e) { inventories::apply(state, e); },
                 [&](const map_acknowledged& e) { publisher::acknowledged(state, e); },
                 [&](const stats_report& e) { note_stats(state, e); },
                 [&](const admin_command& e) { admin_commands::handle(state, e); },
                 [&](const persist_result& e) { on_persist_result(e); },
             },
             what);
}

void cluster_state_machine::on_persist_result(const persist_result& result) {
  auto& state = *state_;
  auto found = state.in_flight.extract(result.ticket);
  if (found.empty()) return;
  if (result.failure) {
    if (!state.alarm) state.tell(severity::error, "store_alarm", "state.db", result.failure->message);
    state.alarm = result.failure;
    state.store_retry_at = state.now + limits::store_retry_after;
    // What the disk holds is not known now: all of it is written again.
    for (auto& [name, row] : state.durable_nodes) row.operation = "unknown";
    std::ranges::fill(state.durable_experts, expert_record{});
    for (const auto& part : found.mapped()) {
      operations::not_written(state, part);
      if (part.command) admin_commands::rejected(state, part, *result.failure);
    }
    if (!state.term_durable) {
      state.persist({state.record(state.published->epoch)}, {});
    }
    return;
  }
  if (state.alarm) state.tell(severity::info, "store_ok", "state.db", "the state can be written again");
  state.alarm.reset();
  state.term_durable = true;
  for (const auto& part : found.mapped()) {
    publisher::committed(state, part);
    if (part.command) admin_commands::committed(state, part);
    operations::committed(state, part);
  }
  state.dirty = true;
}

void cluster_state_machine::tick(time_point now) {
  advance_clock(now);
  membership::advance(*state_);
  if (!state_->dirty && now - last_pass_ < limits::pass_interval) return;
  last_pass_ = now;
  state_->dirty = false;
  reconciler::pass(*state_);
  policy_runner::pass(*state_);
  publisher::pass(*state_);
  refresh_schedule::pass(*state_);
}

output cluster_state_machine::take_output() { return std::exchange(state_->out, {}); }

std::vector<std::pair<node_id, incarnation_number>> cluster_state_machine::members() const {
  std::vector<std::pair<node_id, incarnation_number>> result;
  for (const auto& [name, node] : state_->nodes) {
    if (is_member(node)) result.emplace_back(name, node.incarnation);
  }
  return result;
}

}  // namespace troupe::coordinator
