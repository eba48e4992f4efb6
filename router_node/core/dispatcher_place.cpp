// The placing half of the dispatcher: which replica, what when there is none, and the calls that come of it.
#include <algorithm>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "router_node/core/dispatcher.hpp"

namespace troupe::router {
namespace {

// Substitution answers "who is missing" with another choice; each round masks all that are missing, so that a second
// round is only needed when the choice fell on a host whose link is being made.
constexpr int substitution_rounds_max = 3;

call_size size_of(const outgoing_call& call) {
  return {static_cast<std::uint32_t>(call.row_index.size()), static_cast<std::uint32_t>(call.experts.size())};
}

std::size_t group_of(const dispatch_request& request, std::uint32_t expert) {
  return std::size_t{expert} * request.groups / request.num_experts;
}

error nobody_left(const request_state& r, const term& t, const std::string& reason) {
  return {errc::unavailable, fmt::format("no replica of expert {} can be used ({}); retry later",
                                         to_string(expert_id{r.input.layer, t.expert}), reason)};
}

}  // namespace

error masked_expert(const expert_id& expert) {
  return {errc::conflict,
          fmt::format("expert {} is masked: it is pruned, or not added yet; choose among the others, or bring it back: "
                      "troupe expert restore {}, troupe expert add {}",
                      to_string(expert), to_string(expert), to_string(expert))};
}

// Its calls went by other versions than those that there are now, and it did not ask for them.
bool dispatcher::has_old_weights(const request_state& r) const {
  return !r.input.versions_of && r.weights != hosts_.weights_of(r.input.layer);
}

// An answer is that of one map: when the layer's masks or weights have changed since its first call, all of it is asked
// for again. False: it cannot be gated any more, and is over.
bool dispatcher::gate_anew(request_state& r) {
  const auto is_parked = [](const term& t) { return std::holds_alternative<term_parked>(t.state); };
  const auto& mask = hosts_.gate_mask(r.input.layer);
  const bool has_old_mask = r.input.choose_again && r.input.mask != mask;
  if ((!has_old_mask && !has_old_weights(r)) || std::ranges::none_of(r.terms, is_parked)) return true;
  if (has_old_weights(r)) r.weights = hosts_.weights_of(r.input.layer);
  if (!r.input.choose_again) {
    r.begin_anew(r.input.routing, r.input.mask);
    return true;
  }
  auto chosen = r.input.choose_again(mask);
  if (!chosen) {
    finish(r, std::move(chosen.error()));
    return false;
  }
  r.begin_anew(std::move(*chosen), mask);
  return true;
}

void dispatcher::place_parked(request_state& r, time_point now) {
  if (r.is_over) return;
  parked_.erase(r.id.value);
  if (!gate_anew(r)) return;
  std::vector<placement> placements;
  for (int round = 0;; ++round) {
    const auto without = choose_replicas(r, now, placements);
    if (r.is_over) return;
    if (without.empty()) break;
    const auto decided = degrade_terms(r, without, now);
    if (decided == verdict::over) return;
    if (decided == verdict::go_on) break;
    if (round == substitution_rounds_max) {
      const auto& t = r.terms[without.front()];
      return finish(r, nobody_left(r, t, std::get<term_parked>(t.state).reason));
    }
  }
  emit_calls(r, placements, 0, now);
  const bool is_parked =
      std::ranges::any_of(r.terms, [](const term& t) { return std::holds_alternative<term_parked>(t.state); });
  if (is_parked) parked_.insert(r.id.value);
}

bool dispatcher::find_candidates(const request_state& r, std::uint32_t expert, time_point now, nobody& why) {
  hosts_.find_candidates(
      {r.input.layer, expert}, r.weights,
      [&](host_index host, nobody& because) { return is_excluded(r, host, expert, now, because); }, candidates_, why);
  return !candidates_.empty();
}

// Finds a place for each parked term. Returns the terms that nobody can take now.
std::vector<std::uint32_t> dispatcher::choose_replicas(request_state& r, time_point now,
                                                       std::vector<placement>& placements) {
  placements.clear();
  rows_by_host_.assign(hosts_.all().size(), 0);
  host_of_group_.assign(r.input.groups, std::nullopt);
  bool has_paid = false;
  std::optional<host_index> probed;
  std::vector<std::uint32_t> without;
  for (std::uint32_t index = 0; index < r.terms.size(); ++index) {
    auto& t = r.terms[index];
    auto* parked = std::get_if<term_parked>(&t.state);
    if (parked == nullptr || parked->not_before > now) continue;
    if (t.tries >= limits::attempts_per_call_max) {
      if (r.input.policy == degrade::leave_out) {
        without.push_back(index);
        continue;
      }
      finish(r, nobody_left(r, t, fmt::format("{} attempts; the last: {}", t.tries, t.last_failure)));
      return {};
    }
    nobody why;
    if (find_candidates(r, t.expert, now, why)) {
      if (!may_retry(r, *parked, has_paid, now)) continue;
      const bool may_probe = !probed.has_value();
      const auto mates = with_its_group(r, t.expert, now);
      const auto chosen = mates ? *mates : choose(probed, now);
      if (auto& first = host_of_group_[group_of(r.input, t.expert)]; !first) first = chosen.host;
      rows_by_host_[chosen.host] += t.assignments.size();
      placements.push_back({index, chosen, may_probe && probed.has_value()});
      continue;
    }
    if (why.reason.empty()) why.reason = t.last_failure;
    parked->reason = why.reason;
    if (why.connecting_until && *why.connecting_until > now) {
      wake_at(*why.connecting_until, r.id, 0);
    } else {
      without.push_back(index);
    }
    if (why.look_at) wake_at(*why.look_at, r.id, 0);
  }
  return without;
}

// The replica on the host that the group's first expert of this request goes to: so a row that stays in few groups goes
// to few hosts.
std::optional<candidate> dispatcher::with_its_group(const request_state& r, std::uint32_t expert,
                                                    time_point now) const {
  if (r.input.groups == 1) return std::nullopt;
  const auto& first = host_of_group_[group_of(r.input, expert)];
  if (!first || hosts_.is_last_choice(*first, now) || hosts_.all()[*first].pace != node_pace::normal) {
    return std::nullopt;
  }
  const auto same = std::ranges::find(candidates_, *first, &candidate::host);
  return same != candidates_.end() ? std::optional(*same) : std::nullopt;
}

// One expert of a request may go to a host that is due for a probe, where somebody else can do it and will be asked
// too.
candidate dispatcher::choose(std::optional<host_index>& probed, time_point now) {
  const auto can_do = [&](const candidate& c) { return !hosts_.is_last_choice(c.host, now); };
  if (!probed && hedges_.can_spend(1) && std::ranges::any_of(candidates_, can_do)) {
    const auto due = std::ranges::find_if(candidates_, [&](const candidate& c) {
      return hosts_.at(c.host).pace != node_pace::normal && latency_.wants_probe(c.host, now);
    });
    if (due != candidates_.end()) {
      probed = due->host;
      latency_.on_probe(due->host, now, random_);
      return *due;
    }
  }
  return hosts_.choose(candidates_, rows_by_host_, now, random_);
}

// The retries of one request at one time are paid once.
bool dispatcher::may_retry(request_state& r, term_parked& parked, bool& has_paid, time_point now) {
  if (!parked.pays || has_paid) return true;
  has_paid = budget_.spend(now);
  if (has_paid) return true;
  std::uniform_real_distribution<double> jitter(0.5, 1.5);
  const std::chrono::duration<double> pause = limits::retry_budget_pause * jitter(random_);
  parked.not_before = now + std::chrono::duration_cast<std::chrono::nanoseconds>(pause);
  parked.reason = "too many retries at this time";
  wake_at(parked.not_before, r.id, 0);
  return false;
}

dispatcher::verdict dispatcher::degrade_terms(request_state& r, const std::vector<std::uint32_t>& without,
                                              time_point now) {
  const auto give_up_request = [&](std::uint32_t index) {
    finish(r, nobody_left(r, r.terms[index], std::get<term_parked>(r.terms[index].state).reason));
    return verdict::over;
  };
  const auto& present = hosts_.gate_mask(r.input.layer);
  for (const auto index : without) {
    const auto& t = r.terms[index];
    if (r.input.choose_again || present.empty() || present[t.expert] != 0) continue;
    finish(r, masked_expert({r.input.layer, t.expert}));
    return verdict::over;
  }
  switch (r.input.policy) {
    case degrade::wait:
      return verdict::go_on;
    case degrade::fail:
      return give_up_request(without.front());
    case degrade::substitute:
      return r.input.choose_again ? substitute(r, without, now) : give_up_request(without.front());
    case degrade::renormalise:
      for (const auto index : without) {
        if (!r.give_up_term(index)) return give_up_request(index);
      }
      return verdict::go_on;
    case degrade::leave_out:
      for (const auto index : without) {
        r.leave_out_term(index, hosts_.is_gone({r.input.layer, r.terms[index].expert}, r.weights));
      }
      return verdict::go_on;
  }
  return verdict::go_on;
}

dispatcher::verdict dispatcher::substitute(request_state& r, const std::vector<std::uint32_t>& without,
                                           time_point now) {
  std::vector<std::uint8_t> mask(r.input.num_experts);
  for (std::uint32_t e = 0; e < r.input.num_experts; ++e) {
    if (!r.input.mask.empty() && r.input.mask[e] == 0) continue;
    nobody why;
    mask[e] = find_candidates(r, e, now, why) || (why.connecting_until && *why.connecting_until > now) ? 1 : 0;
  }
  auto chosen = r.input.choose_again(mask);
  if (!chosen) {
    finish(r, std::move(chosen.error()));
    return verdict::over;
  }
  std::vector<std::uint8_t> marked(r.input.rows);
  for (const auto index : without) {
    for (const auto& a : r.terms[index].assignments) marked[a.row] = 1;
  }
  r.choose_again(*chosen, marked);
  return verdict::look_again;
}

void dispatcher::emit_calls(request_state& r, std::vector<placement>& placements, std::uint32_t doubled,
                            time_point now) {
  std::ranges::sort(placements, {}, [&](const placement& p) {
    return std::tuple(p.to.host, r.terms[p.term].expert, p.to.version.value, p.term);
  });
  for (auto begin = placements.begin(); begin != placements.end();) {
    const auto end = std::find_if(begin, placements.end(), [&](const auto& p) { return p.to.host != begin->to.host; });
    emit_call(r, {begin, end}, doubled, now);
    begin = end;
  }
}

void dispatcher::emit_call(request_state& r, std::span<const placement> placements, std::uint32_t doubled,
                           time_point now) {
  const auto& map = *hosts_.map();
  const auto host = placements.front().to.host;
  auto& h = hosts_.at(host);
  outgoing_call out;
  out.id = {r.id, static_cast<std::uint32_t>(r.calls.size() + 1)};
  out.host = h.name;
  out.incarnation = std::get<link_ready>(h.link).incarnation;
  out.layer = r.input.layer;
  out.term = map.term;
  out.epoch = map.epoch;
  const bool has_new_weights = r.weights == hosts_.weights_of(r.input.layer);
  if (has_new_weights && (!r.input.choose_again || r.input.mask == hosts_.gate_mask(r.input.layer)))
    r.epoch = map.epoch;
  out.time_left = std::chrono::ceil<std::chrono::milliseconds>(r.input.deadline - now);
  fill_call(r, placements, out);

  call made{.host = host, .sent = now, .terms = {}, .rows = out.rows, .state = {}};
  made.doubles = doubled;
  std::uint32_t tries = 0;
  for (const auto& p : placements) {
    made.terms.push_back(p.term);
    if (doubled != 0) continue;
    auto& t = r.terms[p.term];
    tries = std::max(tries, t.tries++);
    t.state = term_in_call{out.id.attempt};
  }
  const auto allowance =
      h.history.attempt_timeout(static_cast<std::uint32_t>(out.rows.size())) * (std::int64_t{1} << std::min(tries, 6U));
  const auto times_out = now + allowance;
  out.is_retry = made.is_retry = tries > 0;
  made.state = call_in_flight{out.incarnation, h.link_generation, times_out};
  if (times_out < r.input.deadline) wake_at(times_out, r.id, out.id.attempt);
  const bool is_first = doubled == 0 && !out.is_retry;
  if (is_first) arm_hedge(made, out.id, size_of(out), std::ranges::any_of(placements, &placement::is_probe), now);
  r.calls.push_back(std::move(made));
  if (doubled != 0) r.find_call(doubled)->hedges.push_back(out.id.attempt);
  h.rows_in_flight += out.rows.size();
  latency_.on_sent(host, out.id, size_of(out), now);
  ++counters_.calls;
  counters_.retries += out.is_retry ? 1 : 0;
  if (is_first) {
    budget_.earn();
    hedges_.earn();
  }
  output_.calls.push_back(std::move(out));
}

// Rows, experts and assignments of one call. Terms of one expert (substitution can make two) become one entry.
void dispatcher::fill_call(const request_state& r, std::span<const placement> placements, outgoing_call& out) {
  position_.assign(r.input.rows, -1);
  for (const auto& p : placements) {
    for (const auto& a : r.terms[p.term].assignments) position_[a.row] = 0;
  }
  for (std::uint32_t row = 0; row < r.input.rows; ++row) {
    if (position_[row] < 0) continue;
    position_[row] = static_cast<std::int32_t>(out.rows.size());
    out.rows.push_back(row);
  }
  for (const auto& p : placements) {
    const auto& t = r.terms[p.term];
    if (out.experts.empty() || out.experts.back().expert != t.expert) {
      out.experts.push_back({t.expert, p.to.version, 0});
    }
    out.experts.back().assignments += static_cast<std::uint32_t>(t.assignments.size());
    for (const auto& a : t.assignments) {
      out.row_index.push_back(position_[a.row]);
      out.gate_weight.push_back(a.weight);
    }
  }
}

}  // namespace troupe::router
