#include "router_node/shell/layer_service.hpp"

#include <algorithm>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "router_node/core/input_reservoir.hpp"
#include "router_node/shell/layer_engine.hpp"
#include "router_node/shell/load_recorder.hpp"
#include "router_node/shell/router_metrics.hpp"

namespace troupe::router {

// A job and what was made of its rows.
struct layer_service::pending {
  layer_job job;
  std::uint32_t rows{};
  const float* x{};                // [T, H] f32: the job's own bytes, or converted
  raw_vector<float> converted;     // empty: x are the job's bytes
  raw_vector<std::byte> narrowed;  // rows in the wire dtype, where that is neither the job's nor x
  row_source source;               // rows in the wire dtype
  std::vector<float> logits;       // kept for substitution
  std::vector<float> shared;       // [T, H]; empty: none, or not yet computed
  bool shared_failed{};
  std::vector<std::uint32_t> hosts_of_row;  // [T]: calls that took the row along
  std::uint32_t messages{};
};

namespace {

void log_change(const pace_change& change) {
  if (change.to == node_pace::normal) {
    spdlog::info("{} is as fast as the others again: {}", change.host.value, change.reason);
  } else {
    spdlog::warn("{} is {}: {}", change.host.value, to_string(change.to), change.reason);
  }
}

bool is_aligned(const std::byte* bytes) { return reinterpret_cast<std::uintptr_t>(bytes) % alignof(float) == 0; }

}  // namespace

layer_service::layer_service(const model_plan& plan, layer_engine& engine, const link_environment& links,
                             router_metrics& metrics, std::mt19937_64& random)
    : plan_(plan),
      engine_(engine),
      environment_(links),
      metrics_(metrics),
      cold_(plan.layers().size()),
      jobs_(plan.layers().size()),
      // Begins at a random place, so that answers to an earlier process of this name are foreign.
      dispatcher_(random, request_id{random() >> 16}) {}

layer_service::~layer_service() = default;

// -- requests -----------------------------------------------------------------------------------------------------

std::optional<request_id> layer_service::submit(layer_job job, time_point now) {
  now_ = now;
  const auto rows = static_cast<std::uint32_t>(job.hidden.shape[0]);
  const auto refuse = [&](const error& reason) {
    metrics_.on_refused(reason.code);
    job.done(fail(reason));
    return std::nullopt;
  };
  // Before anything is computed: a full router says so at once.
  if (auto admitted = dispatcher_.check_admission(rows, job.layer->hidden, plan_.wire()); !admitted) {
    return refuse(admitted.error());
  }
  if (job.deadline <= now)
    return refuse({errc::timeout, "the deadline passed before the request began; allow more time"});
  auto p = std::make_unique<pending>();
  p->job = std::move(job);
  p->rows = rows;
  p->hosts_of_row.resize(rows);
  ++jobs_[p->job.layer->place];
  auto request = prepare(*p);
  if (request) metrics_.on_chosen(p->job.layer->place, request->routing);
  if (request && recorder_ != nullptr) recorder_->count(p->job.layer->place, request->routing.expert_ids);
  auto id = request ? dispatcher_.submit(std::move(*request), now) : result<request_id>(fail(request.error()));
  if (!id) {
    metrics_.on_refused(id.error().code);
    p->job.done(fail(id.error()));
    return std::nullopt;
  }
  if (!p->job.given && p->job.layer->has_shared) without_shared_.push_back(id->value);
  pending_.emplace(id->value, std::move(p));
  flush(now);  // its calls leave before the next request is looked at
  return pending_.contains(id->value) ? std::optional(*id) : std::nullopt;
}

// Converts the rows, gates them, and says what the dispatcher has to do.
result<dispatch_request> layer_service::prepare(pending& p) const {
  const auto& layer = *p.job.layer;
  const auto& hidden = p.job.hidden;
  const auto count = std::size_t{p.rows} * layer.hidden;
  const auto wire = plan_.wire();
  if (hidden.type == dtype::f32 && is_aligned(hidden.bytes.data())) {
    p.x = reinterpret_cast<const float*>(hidden.bytes.data());
  } else {
    p.converted.resize(count);
    convert(hidden.type, hidden.bytes.data(), dtype::f32, reinterpret_cast<std::byte*>(p.converted.data()), count);
    p.x = p.converted.data();
  }
  p.source = {.matrix = hidden.bytes.data(), .hidden = layer.hidden, .type = wire};
  if (wire == dtype::f32) {
    p.source.matrix = reinterpret_cast<const std::byte*>(p.x);
  } else if (hidden.type != wire) {
    p.narrowed.resize(count * bytes_per_element(wire));
    convert(dtype::f32, reinterpret_cast<const std::byte*>(p.x), wire, p.narrowed.data(), count);
    p.source.matrix = p.narrowed.data();
  }
  dispatch_request request{.layer = layer.id,
                           .num_experts = layer.num_experts,
                           .groups = layer.groups,
                           .rows = p.rows,
                           .hidden = layer.hidden,
                           .wire = wire,
                           .routing = {},
                           .versions_of = p.job.versions_of,
                           .policy = p.job.policy,
                           .deadline = p.job.deadline,
                           .choose_again = {}};
  const auto& present = dispatcher_.gate_mask(layer.id);
  if (p.job.given) {
    request.routing = *p.job.given;
    if (present.empty()) return request;
    for (const auto id : request.routing.expert_ids) {
      const auto expert = static_cast<std::uint32_t>(id);
      if (id >= 0 && present[expert] == 0) return fail(masked_expert({layer.id, expert}));
    }
    return request;
  }
  auto logits = engine_.logits(layer, p.x, p.rows);
  if (!logits) return fail(logits.error());
  p.logits = std::move(*logits);
  auto chosen = engine_.choose(layer, p.logits, present, exploration_of(layer));
  if (!chosen) return fail(chosen.error());
  request.routing = std::move(*chosen);
  metrics_.on_limited(layer.place, request.routing);
  metrics_.on_explored(layer.place, request.routing);
  request.mask = present;
  if (!present.empty()) {
    metrics_.on_masked(layer.place, engine_.look_behind_mask(layer, p.logits, present), p.rows);
  }
  request.choose_again = [this, &layer, &logits = p.logits](model::expert_mask mask) {
    return engine_.choose(layer, logits, mask);
  };
  return request;
}

// -- cold experts -------------------------------------------------------------------------------------------------

void layer_service::use_cold(const std::vector<expert_id>& cold) {
  for (auto& mask : cold_) mask.clear();
  for (const auto& expert : cold) {
    const auto* layer = plan_.find(expert.layer);
    if (layer == nullptr || expert.index >= layer->num_experts) continue;
    auto& mask = cold_[layer->place];
    mask.resize(layer->num_experts);
    mask[expert.index] = 1;
  }
  if (reservoir_ != nullptr) reservoir_->watch(cold);
}

model::exploration layer_service::exploration_of(const layer_plan& layer) const {
  if (explore_bias_ <= 0) return {};
  return {cold_[layer.place], explore_bias_};
}

// Of what was answered: by the experts that it was answered with.
void layer_service::keep_inputs_of(const pending& p, const layer_result& result) {
  if (reservoir_ == nullptr || !reservoir_->watches(p.job.layer->id)) return;
  const auto bytes = std::size_t{p.rows} * p.source.hidden * bytes_per_element(p.source.type);
  reservoir_->offer({.layer = p.job.layer->id,
                     .matrix = {p.source.matrix, bytes},
                     .rows = p.rows,
                     .type = p.source.type,
                     .routing = result.routing,
                     .flags = result.flags,
                     .epoch = result.epoch});
}

const kept_inputs* layer_service::inputs_of(const expert_id& expert) const {
  return reservoir_ == nullptr ? nullptr : reservoir_->find(expert);
}

bool layer_service::keeps_inputs() const { return reservoir_ != nullptr && reservoir_->is_on(); }

std::uint64_t layer_service::batches() const { return jobs_.empty() ? 0 : std::ranges::max(jobs_); }

void layer_service::cancel(request_id id) {
  if (pending_.erase(id.value) == 0) return;
  dispatcher_.cancel(id);
  metrics_.on_aborted();
}

void layer_service::abort_all(const error& reason) {
  auto open = std::exchange(pending_, {});
  for (auto& [id, p] : open) {
    dispatcher_.cancel({id});
    p->job.done(fail(reason));
  }
}

// -- map and links ------------------------------------------------------------------------------------------------

bool layer_service::use_map(std::shared_ptr<const cluster_map> map, time_point now) {
  now_ = now;
  if (this->map() && map->is_older_than(*this->map())) return false;
  dispatcher_.set_map(map, now);
  metrics_.use_map(map);
  for (auto at = links_.begin(); at != links_.end();) {
    if (map->find(at->first) != nullptr) {
      ++at;
      continue;
    }
    const auto& traffic = at->second->traffic();
    gone_.bytes_out += traffic.bytes_out;
    gone_.bytes_in += traffic.bytes_in;
    gone_.reconnects += traffic.reconnects;
    links_generation_ += at->second->socket_generation() + 1;
    const auto name = at->first;
    at = links_.erase(at);
    dispatcher_.set_link(name, link_down{"the node was removed"}, now);
  }
  for (const auto& node : map->nodes) {
    if (node.role != node_role::expert || node.data_address.empty()) continue;
    if (const auto known = links_.find(node.name); known != links_.end()) {
      known->second->use(node, now);
      continue;
    }
    if (node.state == node_state::lost) continue;
    auto link = std::make_unique<expert_link>(environment_, static_cast<link_listener&>(*this), node);
    link->start(now);
    links_.emplace(node.name, std::move(link));
  }
  return true;
}

void layer_service::on_link(const node_id& host, link_state state) {
  links_changed_ = true;
  dispatcher_.set_link(host, std::move(state), now_);
}

void layer_service::on_call_answer(call_answer answer) {
  metrics_.on_answer(dispatcher_.on_answer(std::move(answer), now_));
}

void layer_service::on_bad_message(const node_id& host, const error& reason) {
  metrics_.on_bad_message();
  spdlog::warn("unusable message of {}: {}", host.value, reason.message);
}

layer_service::link_count layer_service::count_links() const {
  link_count count;
  for (const auto& h : dispatcher_.hosts().all()) {
    const auto link = links_.find(h.name);
    if (!h.expected || link == links_.end()) continue;
    ++count.wanted;
    count.ready += link->second->is_ready() ? 1 : 0;
  }
  return count;
}

// -- the loop's work ----------------------------------------------------------------------------------------------

void layer_service::add_to(wire::poller& poller) {
  for (auto& [name, link] : links_) link->add_to(poller);
}

std::uint64_t layer_service::socket_generation() const {
  auto sum = links_generation_;
  for (const auto& [name, link] : links_) sum += link->socket_generation();
  return sum;
}

time_point layer_service::next_tick() const {
  auto next = dispatcher_.next_tick().value_or(time_point::max());
  for (const auto& [name, link] : links_) next = std::min(next, link->next_tick());
  return next;
}

void layer_service::run(const wire::poller& poller, time_point now) {
  now_ = now;
  for (auto& [name, link] : links_) {
    link->handle(poller, now);
    link->tick(now);
  }
  dispatcher_.tick(now);
  flush(now);
}

void layer_service::flush(time_point now) {
  for (auto out = dispatcher_.take_output(); !out.empty(); out = dispatcher_.take_output()) {
    for (const auto& change : out.pace_changes) log_change(change);
    for (const auto& call : out.calls) send(call, now);
    for (auto& finished : out.finished) finish(std::move(finished));
    if (!out.calls.empty()) compute_shared();
  }
}

void layer_service::send(const outgoing_call& call, time_point now) {
  const auto p = pending_.find(call.id.request.value);
  const auto link = links_.find(call.host);
  if (p == pending_.end() || link == links_.end()) return;
  if (auto sent = link->second->send(call, p->second->source, now); !sent) {
    dispatcher_.on_send_failure(call.id, sent.error(), now);
    return;
  }
  for (const auto row : call.rows) ++p->second->hosts_of_row[row];
  ++p->second->messages;
  metrics_.on_call(call);
}

// The hosts compute meanwhile.
void layer_service::compute_shared() {
  for (const auto id : std::exchange(without_shared_, {})) {
    const auto at = pending_.find(id);
    if (at == pending_.end()) continue;
    auto& p = *at->second;
    p.shared.resize(std::size_t{p.rows} * p.job.layer->hidden);
    if (auto added = engine_.add_shared(*p.job.layer, p.x, p.rows, p.shared.data()); !added) {
      spdlog::error("shared expert of layer {}: {}", to_string(p.job.layer->id), added.error().message);
      p.shared_failed = true;
    }
  }
}

void layer_service::finish(finished_request finished) {
  const auto at = pending_.find(finished.id.value);
  if (at == pending_.end()) return;
  const auto id = finished.id.value;
  if (std::ranges::find(without_shared_, id) != without_shared_.end() &&
      std::holds_alternative<layer_result>(finished.outcome)) {
    compute_shared();
  }
  const auto p = std::move(at->second);
  pending_.erase(at);
  metrics_.on_rows(finished, p->rows);
  if (std::holds_alternative<layer_result>(finished.outcome)) {
    metrics_.on_spread(p->job.layer->place, p->hosts_of_row, p->messages);
  }
  if (!p->job.is_part_of_text) {
    metrics_.on_request(finished, std::chrono::duration<double>(now_ - p->job.arrived).count());
  }
  if (auto* reason = std::get_if<error>(&finished.outcome)) return p->job.done(fail(std::move(*reason)));
  keep_inputs_of(*p, std::get<layer_result>(finished.outcome));
  if (p->shared_failed) return p->job.done(fail(errc::internal, "the shared expert could not be computed"));
  p->job.done(make_answer(*p, std::get<layer_result>(finished.outcome)));
}

std::shared_ptr<const layer_answer> layer_service::make_answer(pending& p, layer_result& result) const {
  auto answer = std::make_shared<layer_answer>();
  answer->epoch = result.epoch;
  answer->type = p.job.hidden.type;
  answer->rows = p.rows;
  answer->hidden = p.job.layer->hidden;
  answer->top_k = result.routing.top_k;
  const auto count = result.sums.size();
  const auto to_bytes = [&](const std::vector<float>& values) {
    raw_vector<std::byte> bytes(count * bytes_per_element(answer->type));
    convert(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), answer->type, bytes.data(), count);
    return bytes;
  };
  if (p.shared.empty()) {
    answer->output = to_bytes(result.sums);
  } else {
    answer->routed = to_bytes(result.sums);
    for (std::size_t i = 0; i < count; ++i) result.sums[i] += p.shared[i];
    answer->output = to_bytes(result.sums);
  }
  answer->expert_ids = std::move(result.routing.expert_ids);
  answer->expert_weights = std::move(result.routing.weights);
  answer->flags = std::move(result.flags);
  return answer;
}

void layer_service::refresh_metrics(double seconds_passed) {
  if (recorder_ != nullptr) recorder_->pass(seconds_passed);
  if (reservoir_ != nullptr) metrics_.on_cold_inputs(reservoir_->rows_kept(), reservoir_->bytes_kept());
  auto total = gone_;
  for (const auto& [name, link] : links_) {
    total.bytes_out += link->traffic().bytes_out;
    total.bytes_in += link->traffic().bytes_in;
    total.reconnects += link->traffic().reconnects;
  }
  const auto of_clients =
      std::ranges::count_if(pending_, [](const auto& entry) { return !entry.second->job.is_part_of_text; });
  metrics_.refresh(seconds_passed, dispatcher_, static_cast<std::uint64_t>(of_clients), total.bytes_out, total.bytes_in,
                   total.reconnects);
}

}  // namespace troupe::router
