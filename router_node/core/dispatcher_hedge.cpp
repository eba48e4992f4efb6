// The hedging half of the dispatcher: a call that takes longer than 95 % of its kind, and each probe of a slow host, is
// sent to other hosts too, while the budget lasts.
//
// A *race* is one first call against its doubles, which together compute the same terms; there are several when no
// single host has all of its experts. The terms stay with the first call until the race is over:
//
//   the first call answers            its rows count; the doubles are given up                          lost
//   all doubles have answered         their rows count; the first call is given up                      won
//   the first call fails              the doubles become the calls of their terms, answered or not      won
//   a double fails, nobody wants it   the doubles are given up, the first call goes on alone            abandoned
//
// Rows of a double that answered early are not added up before that: combining stops at the first call, which stands
// before it in call order.
#include <algorithm>

#include "common/limits.hpp"
#include "router_node/core/dispatcher.hpp"

namespace troupe::router {

void dispatcher::arm_hedge(call& made, const call_id& id, call_size size, bool is_probe, time_point now) {
  if (is_probe) {
    made.hedge_at = now;
  } else if (const auto longest = latency_.usual_longest(size)) {
    made.hedge_at = now + std::max<std::chrono::nanoseconds>(limits::hedge_after_min, *longest);
  }
  if (made.hedge_at) wake_at(*made.hedge_at, id.request, id.attempt);
}

// Sends the terms of a call to other hosts too, if all of them can be had there and the budget allows it.
void dispatcher::hedge(request_state& r, std::uint32_t attempt, time_point now) {
  // Its other calls went by other versions than those that there are now.
  if (has_old_weights(r)) return;
  const auto& first = *r.find_call(attempt);
  std::vector<placement> placements;
  std::vector<host_index> hosts;
  rows_by_host_.assign(hosts_.all().size(), 0);
  for (const auto index : first.terms) {
    const auto& t = r.terms[index];
    if (!std::holds_alternative<term_in_call>(t.state)) continue;
    nobody why;
    find_candidates(r, t.expert, now, why);
    std::erase_if(candidates_,
                  [&](const candidate& c) { return c.host == first.host || hosts_.is_last_choice(c.host, now); });
    if (candidates_.empty()) return;
    // As few calls as possible: each of them costs budget.
    const auto known = std::ranges::find_if(
        candidates_, [&](const candidate& c) { return std::ranges::find(hosts, c.host) != hosts.end(); });
    const auto chosen = known != candidates_.end() ? *known : hosts_.choose(candidates_, rows_by_host_, now, random_);
    if (known == candidates_.end()) hosts.push_back(chosen.host);
    placements.push_back({.term = index, .to = chosen});
  }
  if (!hedges_.spend(hosts.size())) {
    ++counters_.hedges_denied;
    return;
  }
  counters_.hedged_calls += hosts.size();
  emit_calls(r, placements, attempt, now);
}

// The answer of a double waits for the others of its race.
void dispatcher::accept_double(request_state& r, std::uint32_t attempt, const partial_rows& rows) {
  auto& called = *r.find_call(attempt);
  leave_flight(called);
  called.state = call_answered{rows};
  const auto first_attempt = called.doubles;
  auto& first = *r.find_call(first_attempt);
  const bool is_open = std::ranges::any_of(first.hedges, [&](std::uint32_t other) {
    return std::holds_alternative<call_in_flight>(r.find_call(other)->state);
  });
  if (is_open) return;
  leave_flight(first);
  first.state = call_given_up{};
  promote_doubles(r, first_attempt);
  settle(r);
}

// The first call is given up: its terms are the doubles' now.
void dispatcher::promote_doubles(request_state& r, std::uint32_t attempt) {
  for (const auto number : std::exchange(r.find_call(attempt)->hedges, {})) {
    auto& other = *r.find_call(number);
    const bool is_answered = std::holds_alternative<call_answered>(other.state);
    for (const auto index : other.terms) {
      auto& state = r.terms[index].state;
      if (!std::holds_alternative<term_in_call>(state)) continue;
      state = is_answered ? term_state(term_settled{}) : term_state(term_in_call{number});
    }
    other.doubles = 0;
    ++counters_.hedges_won;
  }
}

// Gives all doubles of a call up and counts them under `outcome`.
void dispatcher::drop_doubles(request_state& r, std::uint32_t attempt, std::uint64_t& outcome) {
  for (const auto number : std::exchange(r.find_call(attempt)->hedges, {})) {
    auto& other = *r.find_call(number);
    if (std::holds_alternative<call_in_flight>(other.state)) leave_flight(other);
    other.state = call_given_up{};
    other.doubles = 0;
    ++outcome;
  }
}

// -- slow hosts ------------------------------------------------------------------------------------------------------

void dispatcher::check_paces(time_point now) {
  auto changes = latency_.check(now);
  for (host_index host = 0; host < hosts_.all().size(); ++host) show_pace(host);
  for (auto& change : changes) {
    hosts_.at(change.host).pace_reason = change.reason;
    output_.pace_changes.push_back({hosts_.at(change.host).name, change.from, change.to, std::move(change.reason)});
  }
}

void dispatcher::show_pace(host_index host) {
  auto& h = hosts_.at(host);
  h.pace = latency_.pace(host);
  h.slowness = latency_.slowness(host);
}

}  // namespace troupe::router
