#include "router_node/core/dispatcher.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

// The rows as they came in, as they go out, as they come back, and the f32 sums.
std::uint64_t bytes_of(std::uint32_t rows, std::uint32_t hidden, dtype wire) {
  return std::uint64_t{rows} * hidden * (3 * bytes_per_element(wire) + sizeof(float));
}

}  // namespace

dispatcher::dispatcher(std::mt19937_64& random, request_id first_id) : random_(random), last_id_(first_id.value) {}

request_state* dispatcher::find(request_id id) {
  const auto at = requests_.find(id.value);
  return at == requests_.end() ? nullptr : at->second.get();
}

void dispatcher::wake_at(time_point at, request_id id, std::uint32_t attempt) { wakeups_.push({at, id, attempt}); }

std::optional<time_point> dispatcher::next_tick() const {
  if (wakeups_.empty()) return std::nullopt;
  // Hosts are looked at while somebody waits for them.
  return requests_.empty() ? wakeups_.top().at : std::min(wakeups_.top().at, latency_.next_check());
}

dispatch_output dispatcher::take_output() {
  over_.clear();
  return std::exchange(output_, {});
}

result<void> dispatcher::check_admission(std::uint32_t rows, std::uint32_t hidden, dtype wire) const {
  if (rows_in_flight_ + rows > limits::inflight_rows_max) {
    return troupe::fail(errc::overloaded, fmt::format("{} rows are in flight and {} more do not fit in {}; retry later",
                                                      rows_in_flight_, rows, limits::inflight_rows_max));
  }
  const auto bytes = bytes_of(rows, hidden, wire);
  if (bytes_in_flight_ + bytes > limits::inflight_bytes_max) {
    return troupe::fail(errc::overloaded,
                        fmt::format("{} bytes are in flight and {} more do not fit in {}; retry later",
                                    bytes_in_flight_, bytes, limits::inflight_bytes_max));
  }
  return {};
}

result<request_id> dispatcher::submit(dispatch_request request, time_point now) {
  if (request.deadline <= now) return troupe::fail(errc::timeout, "the deadline has passed before the request began");
  if (auto admitted = check_admission(request.rows, request.hidden, request.wire); !admitted) {
    return troupe::fail(admitted.error());
  }
  rows_in_flight_ += request.rows;
  bytes_in_flight_ += bytes_of(request.rows, request.hidden, request.wire);
  const request_id id{++last_id_};
  auto& r = *requests_.emplace(id.value, std::make_unique<request_state>(id, std::move(request))).first->second;
  r.epoch = hosts_.map() ? hosts_.map()->epoch : epoch_number{};
  r.weights = hosts_.weights_of(r.input.layer);
  if (const auto wanted = r.input.versions_of) {
    r.weights = hosts_.weights_at(r.input.layer, *wanted);
    if (r.weights != hosts_.weights_of(r.input.layer)) r.epoch = *wanted;
  }
  r.add_terms();
  wake_at(r.input.deadline, id, 0);
  place_parked(r, now);
  settle(r);
  return id;
}

bool dispatcher::cancel(request_id id) {
  auto* r = find(id);
  if (r != nullptr) retire(*r);
  return r != nullptr;
}

void dispatcher::set_map(std::shared_ptr<const cluster_map> map, time_point now) {
  if (hosts_.map() && map->is_older_than(*hosts_.map())) return;
  hosts_.set_map(std::move(map));
  fail_calls_of_lost_hosts(now);
  place_all_parked(now);
}

void dispatcher::set_link(const node_id& host, link_state link, time_point now) {
  const auto* ready = std::get_if<link_ready>(&link);
  const auto incarnation = ready == nullptr ? std::nullopt : std::optional(ready->incarnation);
  const auto index = hosts_.set_link(host, std::move(link));
  latency_.on_link(index, incarnation);
  show_pace(index);
  fail_calls_of_lost_hosts(now);
  place_all_parked(now);
}

// -- answers ------------------------------------------------------------------------------------------------------

answer_fate dispatcher::fate_of_unknown(const call_id& id) const {
  const auto at = ended_.find(id.request.value);
  return at != ended_.end() && id.attempt >= 1 && id.attempt <= at->second ? answer_fate::late : answer_fate::foreign;
}

answer_report dispatcher::on_answer(call_answer answer, time_point now) {
  const auto count = [this](answer_fate fate) {
    counters_.late_answers += fate == answer_fate::late;
    counters_.repeated_answers += fate == answer_fate::repeated;
    counters_.foreign_answers += fate == answer_fate::foreign;
    return answer_report{.fate = fate, .layer = {}, .round_trip = {}};
  };
  const auto from = hosts_.find(answer.host);
  if (!from) return count(answer_fate::foreign);
  if (std::holds_alternative<partial_rows>(answer.outcome)) {
    latency_.on_answer(*from, answer.id, now);
  } else {
    latency_.forget(*from, answer.id);
  }
  auto* r = find(answer.id.request);
  if (r == nullptr) return count(fate_of_unknown(answer.id));
  auto* called = r->find_call(answer.id.attempt);
  if (called == nullptr || called->host != *from) return count(answer_fate::foreign);
  auto& host = hosts_.at(*from);
  host.suspect_until.reset();
  const auto elapsed = now - called->sent;
  const auto rows = static_cast<std::uint32_t>(called->rows.size());
  if (std::holds_alternative<call_given_up>(called->state)) {
    host.history.record(rows, elapsed);  // so that the next one is given the time it needs
    return count(answer_fate::late);
  }
  const auto* in_flight = std::get_if<call_in_flight>(&called->state);
  if (in_flight == nullptr) return count(answer_fate::repeated);
  if (in_flight->incarnation != answer.incarnation) return count(answer_fate::foreign);

  answer_report report{.fate = answer_fate::foreign, .layer = r->input.layer, .round_trip = elapsed};
  if (const auto* sums = std::get_if<partial_rows>(&answer.outcome)) {
    report.fate = accept(*r, answer.id.attempt, answer, *sums, now);
    if (report.fate == answer_fate::accepted) host.history.record(rows, elapsed);
  } else {
    report.fate = answer_fate::refused;
    fail_call(*r, answer.id.attempt, cause::refused, std::get<error>(answer.outcome).message, now);
  }
  return report;
}

answer_fate dispatcher::accept(request_state& r, std::uint32_t attempt, const call_answer& answer,
                               const partial_rows& rows, time_point now) {
  auto& called = *r.find_call(attempt);
  const auto wanted = called.rows.size() * r.input.hidden * bytes_per_element(r.input.wire);
  if (rows.bytes.size() != wanted) {
    fail_call(r, attempt, cause::refused,
              fmt::format("its answer has {} bytes instead of {}", rows.bytes.size(), wanted), now);
    return answer_fate::refused;
  }
  if (called.doubles != 0) {
    if (answer.not_held.empty()) {
      accept_double(r, attempt, rows);
      return answer_fate::accepted;
    }
    fail_call(r, attempt, cause::refused, "it does not hold all experts of the call", now);
    return answer_fate::refused;
  }
  leave_flight(called);
  drop_doubles(r, attempt, counters_.hedges_lost);
  const auto host = called.host;
  if (called.is_retry) budget_.refund();
  called.state = call_answered{rows};
  bool is_missing = false;
  for (const auto index : called.terms) {
    auto& t = r.terms[index];
    if (!std::holds_alternative<term_in_call>(t.state)) continue;
    if (std::ranges::find(answer.not_held, t.expert) == answer.not_held.end()) {
      t.state = term_settled{};
      continue;
    }
    is_missing = true;
    hosts_.drop_held({r.input.layer, t.expert}, r.weights, host);
    exclude(r, host, t.expert, t.tries, now);
    park(t, cause::refused, fmt::format("{} does not hold it", answer.host.value));
  }
  r.combine_ready();
  if (is_missing) place_parked(r, now);
  settle(r);
  return answer_fate::accepted;
}

void dispatcher::on_send_failure(const call_id& id, const error& reason, time_point now) {
  auto* r = find(id.request);
  auto* called = r != nullptr ? r->find_call(id.attempt) : nullptr;
  if (called == nullptr || !std::holds_alternative<call_in_flight>(called->state)) return;
  latency_.forget(called->host, id);
  fail_call(*r, id.attempt, cause::refused, reason.message, now);
}

// -- failures -----------------------------------------------------------------------------------------------------

void dispatcher::leave_flight(const call& c) { hosts_.at(c.host).rows_in_flight -= c.rows.size(); }

void dispatcher::fail_call(request_state& r, std::uint32_t attempt, cause why, const std::string& reason,
                           time_point now) {
  counters_.lost_calls += why == cause::lost;
  counters_.refused_calls += why == cause::refused;
  counters_.timed_out_calls += why == cause::timed_out;
  auto& called = *r.find_call(attempt);
  leave_flight(called);
  called.state = call_given_up{};
  auto& host = hosts_.at(called.host);
  if (why == cause::timed_out) host.suspect_until = now + limits::suspect_host_for;
  if (called.doubles != 0) return drop_doubles(r, called.doubles, counters_.hedges_abandoned);
  promote_doubles(r, attempt);
  const auto text = fmt::format("{}: {}", host.name.value, reason);
  std::uint32_t tries = 0;
  for (const auto index : called.terms) {
    auto& t = r.terms[index];
    const auto* in_call = std::get_if<term_in_call>(&t.state);
    if (in_call == nullptr || in_call->attempt != attempt) continue;
    tries = std::max(tries, t.tries);
    park(t, why, text);
  }
  if (why != cause::lost) exclude(r, called.host, std::nullopt, tries, now);
  place_parked(r, now);
  settle(r);
}

void dispatcher::park(term& t, cause why, const std::string& reason) {
  t.last_failure = reason;
  // A host that died takes its calls with it once; only refusals and time-outs can go round in circles.
  t.state = term_parked{.pays = why != cause::lost, .not_before = {}, .reason = reason};
}

void dispatcher::exclude(request_state& r, host_index host, std::optional<std::uint32_t> expert, std::uint32_t tries,
                         time_point now) {
  std::uniform_real_distribution<double> jitter(0.5, 1.5);
  const std::chrono::duration<double> longest = limits::retry_backoff_max;
  const std::chrono::duration<double> doubled =
      limits::retry_backoff_min * std::ldexp(1.0, static_cast<int>(tries) - 1);
  const auto pause = std::min(doubled, longest) * jitter(random_);
  r.exclusions.push_back({.host = host,
                          .expert = expert,
                          .epoch = hosts_.map() ? hosts_.map()->epoch : epoch_number{},
                          .link_generation = hosts_.at(host).link_generation,
                          .until = now + std::chrono::duration_cast<std::chrono::nanoseconds>(pause)});
}

bool dispatcher::is_excluded(const request_state& r, host_index host, std::uint32_t expert, time_point now,
                             nobody& why) const {
  bool excluded = false;
  for (const auto& e : r.exclusions) {
    if (e.host != host || (e.expert && *e.expert != expert) || e.until <= now) continue;
    if (e.link_generation != hosts_.at(host).link_generation || e.epoch != hosts_.map()->epoch) continue;
    why.look_at = why.look_at ? std::min(*why.look_at, e.until) : e.until;
    excluded = true;
  }
  return excluded;
}

void dispatcher::fail_calls_of_lost_hosts(time_point now) {
  std::vector<call_id> lost;
  for (const auto& [number, r] : requests_) {
    for (std::uint32_t i = 0; i < r->calls.size(); ++i) {
      const auto* in_flight = std::get_if<call_in_flight>(&r->calls[i].state);
      if (in_flight == nullptr) continue;
      const auto host = r->calls[i].host;
      if (in_flight->link_generation != hosts_.at(host).link_generation ||
          !hosts_.is_current(host, in_flight->incarnation)) {
        lost.push_back({r->id, i + 1});
      }
    }
  }
  std::ranges::sort(lost);  // the table has no order of its own; the simulation replays by seed
  for (const auto& id : lost) {
    auto* r = find(id.request);
    if (r == nullptr || !std::holds_alternative<call_in_flight>(r->find_call(id.attempt)->state)) continue;
    fail_call(*r, id.attempt, cause::lost, "the connection or the node was lost", now);
  }
}

void dispatcher::place_all_parked(time_point now) {
  std::vector<std::uint64_t> waiting(parked_.begin(), parked_.end());
  std::ranges::sort(waiting);
  for (const auto id : waiting) {
    auto* r = find(request_id{id});
    if (r == nullptr) continue;
    place_parked(*r, now);
    settle(*r);
  }
}

// -- time ---------------------------------------------------------------------------------------------------------

void dispatcher::tick(time_point now) {
  if (latency_.next_check() <= now) check_paces(now);
  while (!wakeups_.empty() && wakeups_.top().at <= now) {
    const auto due = wakeups_.top();
    wakeups_.pop();
    auto* r = find(due.id);
    if (r == nullptr) continue;
    if (r->input.deadline <= now) {
      finish(*r, deadline_error(*r));
    } else if (due.attempt > 0) {
      check_attempt(*r, due.attempt, now);
    } else {
      place_parked(*r, now);
      settle(*r);
    }
  }
}

void dispatcher::check_attempt(request_state& r, std::uint32_t attempt, time_point now) {
  if (!std::holds_alternative<call_in_flight>(r.find_call(attempt)->state)) return;
  if (r.find_call(attempt)->hedge_at.value_or(time_point::max()) <= now) {
    r.find_call(attempt)->hedge_at.reset();
    hedge(r, attempt, now);
  }
  auto& called = *r.find_call(attempt);
  auto* in_flight = std::get_if<call_in_flight>(&called.state);
  if (in_flight->times_out > now) return;
  if (called.doubles == 0 && is_available_elsewhere(r, called, now)) {
    return fail_call(r, attempt, cause::timed_out,
                     fmt::format("no answer within {} ms",
                                 std::chrono::duration_cast<std::chrono::milliseconds>(now - called.sent).count()),
                     now);
  }
  in_flight->times_out = now + std::max<time_point::duration>(now - called.sent, limits::attempt_timeout_floor);
  wake_at(in_flight->times_out, r.id, attempt);
}

bool dispatcher::is_available_elsewhere(const request_state& r, const call& c, time_point now) {
  return std::ranges::all_of(c.terms, [&](std::uint32_t index) {
    const auto& t = r.terms[index];
    if (!std::holds_alternative<term_in_call>(t.state)) return true;
    nobody why;
    find_candidates(r, t.expert, now, why);
    return std::ranges::any_of(candidates_, [&](const candidate& other) {
      return other.host != c.host && !hosts_.is_last_choice(other.host, now);
    });
  });
}

// -- ends ---------------------------------------------------------------------------------------------------------

void dispatcher::settle(request_state& r) {
  if (r.is_over) return;
  for (auto& c : r.calls) {
    if (!std::holds_alternative<call_in_flight>(c.state)) continue;
    const bool is_wanted = std::ranges::any_of(
        c.terms, [&](std::uint32_t index) { return std::holds_alternative<term_in_call>(r.terms[index].state); });
    if (is_wanted) continue;
    leave_flight(c);  // substitution left nothing of it
    c.state = call_given_up{};
    if (!c.hedges.empty())
      drop_doubles(r, static_cast<std::uint32_t>(&c - r.calls.data()) + 1, counters_.hedges_abandoned);
  }
  r.combine_ready();
  if (r.is_complete()) finish(r, r.take_result());
}

void dispatcher::finish(request_state& r, std::variant<layer_result, error> outcome) {
  output_.finished.push_back({r.id, std::move(outcome)});
  retire(r);
}

void dispatcher::retire(request_state& r) {
  for (auto& c : r.calls) {
    counters_.hedges_abandoned += c.doubles != 0 ? 1 : 0;
    if (!std::holds_alternative<call_in_flight>(c.state)) continue;
    leave_flight(c);
    c.state = call_given_up{};
  }
  rows_in_flight_ -= r.input.rows;
  bytes_in_flight_ -= bytes_of(r.input.rows, r.input.hidden, r.input.wire);
  r.is_over = true;
  parked_.erase(r.id.value);
  ended_.emplace(r.id.value, static_cast<std::uint32_t>(r.calls.size()));
  ended_order_.push_back(r.id.value);
  if (ended_order_.size() > limits::ended_requests_max) {
    ended_.erase(ended_order_.front());
    ended_order_.pop_front();
  }
  auto node = requests_.extract(r.id.value);
  over_.push_back(std::move(node.mapped()));
}

error dispatcher::deadline_error(const request_state& r) const {
  std::string waiting;
  for (const auto& t : r.terms) {
    const expert_id expert{r.input.layer, t.expert};
    if (const auto* parked = std::get_if<term_parked>(&t.state)) {
      waiting = fmt::format("for a replica of expert {} ({})", to_string(expert), parked->reason);
      break;
    }
    if (const auto* in_call = std::get_if<term_in_call>(&t.state); in_call != nullptr && waiting.empty()) {
      const auto& name = hosts_.at(r.calls[in_call->attempt - 1].host).name;
      waiting = fmt::format("for the answer of {} about expert {}", name.value, to_string(expert));
    }
  }
  return {errc::timeout, fmt::format("the deadline of layer {} passed while waiting {}; retry, or allow more time",
                                     to_string(r.input.layer), waiting)};
}

}  // namespace troupe::router
