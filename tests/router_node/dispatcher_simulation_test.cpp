// The dispatcher in a hostile world, by seed: calls and answers are lost, delayed, doubled and reordered; hosts die,
// freeze, wake up, restart empty and refuse; maps and links change underneath. At the end the world heals.
//
// Always: every accepted request ends in exactly one outcome, and a result is exactly what its routing says.
// After healing: every request that waits gets its result.
// Experts are masked, come back and get other weights meanwhile: a result is what the gate chooses under the mask of
// the epoch it names, computed with the weights of that epoch.
//
// TROUPE_SIMULATION_SEEDS=n tries n seeds, TROUPE_SIMULATION_SEED=s replays one.
#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <queue>
#include <set>

#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "router_node/core/dispatcher.hpp"
#include "tests/router_node/fake_cluster.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using namespace troupe::router::testing;

struct faults {
  double lose_call{};
  double lose_answer{};
  double double_answer{};
  double refuse{};
  std::uint32_t host_events{};  // kills, freezes, restarts
};

struct fake_host {
  std::uint64_t incarnation{1};
  bool is_alive{true};
  bool is_frozen{};
  std::set<std::uint32_t> held;
  std::vector<outgoing_call> backlog;  // while frozen
};

constexpr std::uint32_t top_k_max = 3;

class simulation {
 public:
  explicit simulation(std::uint64_t seed) : random_(seed), router_random_(seed + 1), dispatcher_(router_random_) {
    num_hosts_ = pick(2, 5);
    num_experts_ = pick(3, 9);
    replicas_ = std::min(pick(1, 3), num_hosts_);
    faults_ = {.lose_call = chance(0.3) ? 0.03 : 0,
               .lose_answer = chance(0.3) ? 0.03 : 0,
               .double_answer = chance(0.5) ? 0.1 : 0,
               .refuse = chance(0.3) ? 0.1 : 0,
               .host_events = pick(0, 6)};
    hosts_.resize(num_hosts_);
    for (std::uint32_t e = 0; e < num_experts_; ++e) place(e);
  }

  void run() {
    publish();
    for (std::uint32_t h = 0; h < num_hosts_; ++h) link_up(h);
    // Now and then enough of them for the router to know what calls usually take, and to hedge.
    const auto requests = chance(0.1) ? pick(300, 600) : pick(10, 60);
    for (std::uint32_t i = 0; i < requests; ++i) at(milliseconds(0, 10'000), [this] { send_request(); });
    for (std::uint32_t i = 0; i < faults_.host_events; ++i) at(milliseconds(0, 8'000), [this] { disturb(); });
    if (num_experts_ > top_k_max) {
      for (auto i = pick(0, 6); i > 0; --i) at(milliseconds(0, 8'000), [this] { mask_or_restore(); });
    }
    for (auto i = pick(0, 6); i > 0; --i) at(milliseconds(0, 8'000), [this] { refresh(); });
    at(10s, [this] { heal(); });
    run_events();
    check_end();
  }

  struct totals {
    std::uint64_t succeeded{};
    std::uint64_t failed{};
    std::uint64_t approximate_rows{};
    std::uint64_t gated_anew{};
  };
  [[nodiscard]] const totals& outcome() const { return totals_; }
  [[nodiscard]] const dispatcher_counters& counters() const { return dispatcher_.counters(); }

 private:
  struct expected {
    degrade policy{};
    model::routing routing;
    std::uint32_t rows{};
    bool must_succeed{};
    bool is_given{};                 // the caller gated: masks are not looked at, but `conflict` may come of them
    std::set<std::uint32_t> masked;  // when it was gated
  };
  struct event {
    time_point at;
    std::uint64_t order{};
    std::function<void()> act;
    bool operator>(const event& other) const { return std::tie(at, order) > std::tie(other.at, other.order); }
  };

  std::uint32_t pick(std::uint32_t least, std::uint32_t most) {
    return std::uniform_int_distribution<std::uint32_t>(least, most)(random_);
  }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(random_); }
  std::chrono::nanoseconds milliseconds(std::uint32_t least, std::uint32_t most) {
    return std::chrono::microseconds(pick(least * 1000, most * 1000));
  }
  void at(std::chrono::nanoseconds later, std::function<void()> act) {
    events_.push({now_ + later, ++order_, std::move(act)});
  }

  // -- the world

  void place(std::uint32_t expert) {
    std::vector<std::uint32_t> alive;
    for (std::uint32_t h = 0; h < num_hosts_; ++h) {
      if (hosts_[h].is_alive && !hosts_[h].is_frozen) alive.push_back(h);
    }
    std::ranges::shuffle(alive, random_);
    for (std::uint32_t i = 0; i < std::min<std::size_t>(replicas_, alive.size()); ++i)
      hosts_[alive[i]].held.insert(expert);
  }

  // The coordinator's view: what hosts that it believes in report. It believes in frozen ones for a while.
  void publish() {
    std::vector<std::vector<std::uint32_t>> placement(num_experts_);
    std::vector<std::uint64_t> incarnations;
    for (std::uint32_t h = 0; h < num_hosts_; ++h) {
      const bool is_lost = !hosts_[h].is_alive || lost_.contains(h);
      incarnations.push_back(is_lost ? 0 : hosts_[h].incarnation);
      if (is_lost) continue;
      for (const auto e : hosts_[h].held) placement[e].push_back(h);
    }
    dispatcher_.set_map(make_map(++epoch_, placement, incarnations, masked_, versions_), now_);
    masked_at_[epoch_] = masked_;
    versions_at_[epoch_] = versions_;
  }

  void link_up(std::uint32_t h) {
    dispatcher_.set_link(host_name(h), link_connecting{now_}, now_);
    at(milliseconds(0, 20), [this, h, incarnation = hosts_[h].incarnation] {
      if (!hosts_[h].is_alive || hosts_[h].incarnation != incarnation) return;
      dispatcher_.set_link(host_name(h), link_ready{{incarnation}}, now_);
    });
  }

  void disturb() {
    const auto h = pick(0, num_hosts_ - 1);
    if (chance(0.5)) {
      kill(h);
    } else if (hosts_[h].is_alive && !hosts_[h].is_frozen) {
      hosts_[h].is_frozen = true;
      at(milliseconds(100, 6000), [this, h] { thaw(h); });
      if (chance(0.5)) at(3s, [this, h] { believe_lost(h); });
    }
    if (chance(0.3)) at(milliseconds(0, 500), [this] { move_something(); });
  }

  void kill(std::uint32_t h) {
    if (!hosts_[h].is_alive) return;
    hosts_[h].is_alive = hosts_[h].is_frozen = false;
    hosts_[h].held.clear();
    hosts_[h].backlog.clear();
    at(milliseconds(0, 5), [this, h] { dispatcher_.set_link(host_name(h), link_down{"killed"}, now_); });
    at(milliseconds(100, 3000), [this] { rebuild(); });
    at(milliseconds(500, 5000), [this, h] { restart(h); });
  }

  void restart(std::uint32_t h) {
    if (hosts_[h].is_alive) return;
    hosts_[h].is_alive = true;
    ++hosts_[h].incarnation;
    lost_.erase(h);
    link_up(h);
    at(milliseconds(10, 500), [this] { rebuild(); });
  }

  void believe_lost(std::uint32_t h) {
    if (!hosts_[h].is_frozen) return;
    lost_.insert(h);
    rebuild();
  }

  void thaw(std::uint32_t h) {
    if (!hosts_[h].is_frozen) return;
    hosts_[h].is_frozen = false;
    lost_.erase(h);
    for (const auto& call : std::exchange(hosts_[h].backlog, {})) arrive(h, call);
    at(milliseconds(0, 100), [this] { publish(); });
  }

  // Experts that nobody holds any more are loaded again where there is life.
  void rebuild() {
    for (std::uint32_t e = 0; e < num_experts_; ++e) {
      bool is_held = false;
      for (std::uint32_t h = 0; h < num_hosts_; ++h) {
        is_held = is_held || (hosts_[h].held.contains(e) && !lost_.contains(h));
      }
      if (!is_held && !masked_.contains(e)) place(e);
    }
    publish();
  }

  // A host drops an expert that another one holds too; the map says so later, so that calls meet "not held".
  void move_something() {
    const auto e = pick(0, num_experts_ - 1);
    std::vector<std::uint32_t> holders;
    for (std::uint32_t h = 0; h < num_hosts_; ++h) {
      if (hosts_[h].held.contains(e)) holders.push_back(h);
    }
    if (holders.size() < 2) return;
    hosts_[holders.front()].held.erase(e);
    at(milliseconds(0, 300), [this] { publish(); });
  }

  // As the coordinator prunes: first a map under which nobody chooses the expert, later its replicas go. Restoring:
  // loaded first, then a map in which it may be chosen.
  void mask_or_restore() {
    const auto e = pick(0, num_experts_ - 1);
    if (masked_.contains(e)) {
      place(e);
      masked_.erase(e);
      return publish();
    }
    if (num_experts_ - masked_.size() <= top_k_max) return;
    masked_.insert(e);
    publish();
    at(milliseconds(0, 200), [this, e] {
      if (!masked_.contains(e)) return;
      for (auto& host : hosts_) host.held.erase(e);
      if (chance(0.5)) publish();  // else with whatever comes next: calls meet "not held"
    });
  }

  // Some experts get other weights in one epoch. Hosts keep the old ones for a while; then calls for them meet "not
  // held".
  void refresh() {
    for (std::uint32_t e = 0; e < num_experts_; ++e) {
      if (chance(0.5)) versions_[e] = version_of(versions_, e) + 1;
    }
    publish();
    at(milliseconds(0, 300), [this, kept = versions_] { oldest_held_ = kept; });
  }

  void heal() {
    faults_ = {};
    is_healed_ = true;
    for (std::uint32_t h = 0; h < num_hosts_; ++h) {
      thaw(h);
      restart(h);
    }
    lost_.clear();
    at(600ms, [this] { rebuild(); });
    // A message that the world lost is found out by its connection's end.
    for (std::uint32_t h = 0; h < num_hosts_; ++h) {
      at(1s, [this, h] {
        dispatcher_.set_link(host_name(h), link_down{"reset"}, now_);
        link_up(h);
      });
    }
  }

  // -- traffic

  static float weight_of(std::uint32_t row, std::uint32_t expert) {
    return static_cast<float>((row * 5 + expert * 3) % 8 + 1);
  }

  // Row r prefers expert (r * 3 + j) mod N, j = 0, 1, ...; under a mask the next one.
  model::routing route(std::uint32_t rows, std::uint32_t top_k, model::expert_mask mask) const {
    model::routing routing{top_k, {}, {}, {}};
    for (std::uint32_t row = 0; row < rows; ++row) {
      std::uint32_t chosen = 0;
      for (std::uint32_t j = 0; j < num_experts_ && chosen < top_k; ++j) {
        const auto expert = (row * 3 + j) % num_experts_;
        if (!mask.empty() && mask[expert] == 0) continue;
        routing.expert_ids.push_back(static_cast<std::int32_t>(expert));
        routing.weights.push_back(weight_of(row, expert));
        ++chosen;
      }
    }
    return routing;
  }

  void send_request() {
    dispatch_request request;
    request.layer = layer;
    request.num_experts = num_experts_;
    request.rows = pick(1, 12);
    request.hidden = hidden;
    const auto top_k = pick(1, top_k_max);
    request.mask = dispatcher_.gate_mask(layer);
    request.routing = route(request.rows, top_k, request.mask);
    if (chance(0.2)) {
      for (std::size_t i = 0; i < request.routing.expert_ids.size(); ++i)
        request.routing.dropped.push_back(chance(0.2));
    }
    if (chance(0.1)) request.routing.expert_ids[0] = -1;
    request.policy = static_cast<degrade>(pick(0, 4));
    const bool is_patient = chance(0.8);
    request.deadline = now_ + (is_patient ? std::chrono::nanoseconds(60s) : milliseconds(1, 5000));
    const auto rows = request.rows;
    request.choose_again = [this, rows, top_k](model::expert_mask mask) -> result<model::routing> {
      auto chosen = route(rows, top_k, mask);
      if (chosen.expert_ids.size() < std::size_t{rows} * top_k) return fail(errc::unavailable, "too few experts");
      return chosen;
    };
    const bool is_given = chance(0.1);
    if (is_given) request.choose_again = {};
    expected e{request.policy, request.routing,   rows, is_patient && request.policy == degrade::wait && !is_given,
               is_given,       masked_at_[epoch_]};
    auto id = dispatcher_.submit(std::move(request), now_);
    ASSERT_TRUE(id) << id.error().message;
    if (chance(0.03) && dispatcher_.cancel(*id)) return;
    ASSERT_TRUE(open_.emplace(id->value, std::move(e)).second) << "a request id was given twice";
  }

  void carry_out() {
    auto out = dispatcher_.take_output();
    const auto& counted = dispatcher_.counters();
    const auto first_calls = counted.calls - counted.retries - counted.hedged_calls;
    ASSERT_LE(static_cast<double>(counted.hedged_calls), limits::hedge_share_max * static_cast<double>(first_calls));
    for (auto& call : out.calls) {
      ASSERT_TRUE(calls_.insert(call.id).second) << "attempt " << call.id.attempt << " was used twice";
      if (chance(faults_.lose_call)) continue;
      const auto h = static_cast<std::uint32_t>(std::stoul(call.host.value.substr(5)));
      at(milliseconds(0, 3), [this, h, moved = std::move(call)] { arrive(h, moved); });
    }
    for (auto& finished : out.finished) check(finished);
  }

  void arrive(std::uint32_t h, const outgoing_call& call) {
    auto& host = hosts_[h];
    if (!host.is_alive || host.incarnation != call.incarnation.value) return;
    if (host.is_frozen) {
      host.backlog.push_back(call);
      return;
    }
    if (chance(faults_.lose_answer)) return;
    auto answer = chance(faults_.refuse) ? refusal_of(call, errc::overloaded, "full") : honest_answer(host, call);
    const auto slow = chance(0.02) ? 2000U : 20U;
    if (chance(faults_.double_answer)) at(milliseconds(0, 50), [this, answer] { deliver(answer); });
    at(milliseconds(0, slow), [this, moved = std::move(answer)] { deliver(moved); });
  }

  call_answer honest_answer(const fake_host& host, const outgoing_call& call) const {
    std::vector<std::uint32_t> not_held;
    for (const auto& e : call.experts) {
      const bool is_held = host.held.contains(e.expert) && e.version.value >= version_of(oldest_held_, e.expert);
      if (!is_held) not_held.push_back(e.expert);
    }
    return answer_to(call, not_held);
  }

  void deliver(const call_answer& answer) { (void)dispatcher_.on_answer(answer, now_); }

  // -- judging

  void check(const finished_request& finished) {
    const auto at = open_.find(finished.id.value);
    ASSERT_NE(at, open_.end()) << "request " << finished.id.value << " ended twice, or after it was cancelled";
    const auto wanted = std::move(at->second);
    open_.erase(at);
    if (const auto* reason = std::get_if<error>(&finished.outcome)) {
      ++totals_.failed;
      EXPECT_FALSE(wanted.must_succeed) << reason->message;
      const bool may_conflict = wanted.is_given && reason->code == errc::conflict;
      EXPECT_TRUE(reason->code == errc::timeout || reason->code == errc::unavailable || may_conflict)
          << reason->message;
      return;
    }
    ++totals_.succeeded;
    check_result(wanted, std::get<layer_result>(finished.outcome));
  }

  void check_result(const expected& wanted, const layer_result& result) {
    const auto& changed = versions_at_.at(result.epoch.value);
    const auto exact = reference(result.routing, wanted.rows, changed);
    // Not choosing one that is masked is what the gate says, not an approximation.
    const auto& masked = masked_at_.at(result.epoch.value);
    const auto by_epoch = route(wanted.rows, wanted.routing.top_k, mask_without(masked)).expert_ids;
    const bool may_be_first = wanted.is_given || masked == wanted.masked;
    totals_.gated_anew += by_epoch != wanted.routing.expert_ids && !may_be_first ? 1 : 0;
    ASSERT_EQ(result.sums.size(), exact.size());
    for (std::uint32_t row = 0; row < wanted.rows; ++row) {
      const bool is_substituted = (result.flags[row] & flag_substituted) != 0;
      const bool is_renormalised = (result.flags[row] & flag_renormalised) != 0;
      totals_.approximate_rows += is_substituted || is_renormalised ? 1 : 0;
      EXPECT_TRUE(!is_substituted || wanted.policy == degrade::substitute);
      if ((result.flags[row] & flag_missing) != 0) {
        EXPECT_EQ(wanted.policy, degrade::leave_out);
        continue;
      }
      if (is_renormalised) {
        EXPECT_EQ(wanted.policy, degrade::renormalise);
        EXPECT_TRUE(is_some_renormalisation(result, row, changed)) << "row " << row;
        continue;
      }
      for (std::uint32_t c = 0; c < hidden; ++c) EXPECT_EQ(result.sums[row * hidden + c], exact[row * hidden + c]);
      for (std::uint32_t j = 0; j < wanted.routing.top_k && !is_substituted; ++j) {
        const auto a = row * wanted.routing.top_k + j;
        const auto id = result.routing.expert_ids[a];
        const bool is_first = may_be_first && id == wanted.routing.expert_ids[a];
        EXPECT_TRUE(is_first || (!wanted.is_given && id == by_epoch[a])) << "row " << row << " chose " << id;
      }
    }
  }

  std::vector<std::uint8_t> mask_without(const std::set<std::uint32_t>& masked) const {
    std::vector<std::uint8_t> mask(num_experts_, 1);
    for (const auto e : masked) mask[e] = 0;
    return mask;
  }

  // Does leaving out some of the row's terms, and scaling the rest to the same sum of weights, give this row?
  static bool is_some_renormalisation(const layer_result& result, std::uint32_t row, const versions& changed) {
    const auto k = result.routing.top_k;
    for (std::uint32_t kept = 1; kept < 1U << k; ++kept) {
      float sum_all = 0;
      float sum_kept = 0;
      std::array<float, hidden> sums{};
      for (std::uint32_t j = 0; j < k; ++j) {
        const auto a = row * k + j;
        const bool is_dropped = !result.routing.dropped.empty() && result.routing.dropped[a] != 0;
        if (result.routing.expert_ids[a] < 0 || is_dropped) continue;
        sum_all += result.routing.weights[a];
        if ((kept >> j & 1U) == 0) continue;
        sum_kept += result.routing.weights[a];
        const auto expert = static_cast<std::uint32_t>(result.routing.expert_ids[a]);
        for (std::uint32_t c = 0; c < hidden; ++c) {
          sums[c] += result.routing.weights[a] * expert_output(expert, row, c, version_of(changed, expert));
        }
      }
      bool is_equal = sum_kept > 0;
      for (std::uint32_t c = 0; c < hidden; ++c) {
        is_equal = is_equal && std::abs(sums[c] * sum_all / sum_kept - result.sums[row * hidden + c]) < 1e-2F;
      }
      if (is_equal) return true;
    }
    return false;
  }

  void run_events() {
    carry_out();
    while (!::testing::Test::HasFatalFailure()) {
      const auto due = dispatcher_.next_tick();
      if (events_.empty() && !due) return;
      if (events_.empty() || (due && *due < events_.top().at)) {
        now_ = std::max(now_, *due);
        dispatcher_.tick(now_);
      } else {
        auto next = events_.top();
        events_.pop();
        now_ = next.at;
        next.act();
      }
      carry_out();
    }
  }

  void check_end() const {
    EXPECT_TRUE(open_.empty()) << open_.size() << " requests never ended";
    EXPECT_EQ(dispatcher_.requests_in_flight(), 0U);
    EXPECT_EQ(dispatcher_.rows_in_flight(), 0U);
    const auto& c = dispatcher_.counters();
    EXPECT_EQ(c.hedged_calls, c.hedges_won + c.hedges_lost + c.hedges_abandoned);
    for (const auto& h : dispatcher_.hosts().all()) EXPECT_EQ(h.rows_in_flight, 0U) << h.name.value;
  }

  std::mt19937_64 random_;
  time_point now_{std::chrono::hours(1)};
  std::uint32_t num_hosts_{};
  std::uint32_t num_experts_{};
  std::uint32_t replicas_{};
  faults faults_;
  std::vector<fake_host> hosts_;
  std::set<std::uint32_t> lost_;
  bool is_healed_{};
  std::uint64_t epoch_{};
  std::set<std::uint32_t> masked_;
  std::map<std::uint64_t, std::set<std::uint32_t>> masked_at_;  // by epoch
  versions versions_;
  versions oldest_held_;
  std::map<std::uint64_t, versions> versions_at_;  // by epoch
  std::uint64_t order_{};
  std::priority_queue<event, std::vector<event>, std::greater<>> events_;
  std::map<std::uint64_t, expected> open_;
  std::set<call_id> calls_;
  totals totals_;
  std::mt19937_64 router_random_;
  dispatcher dispatcher_;
};

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
  const auto* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(dispatcher_simulation, every_accepted_request_ends_once_and_exactly) {
  const auto only = number_from("TROUPE_SIMULATION_SEED", 0);
  const auto seeds = only != 0 ? 1 : number_from("TROUPE_SIMULATION_SEEDS", 3000);
  simulation::totals seen;
  dispatcher_counters counted;
  for (std::uint64_t i = 1; i <= seeds; ++i) {
    const auto seed = only != 0 ? only : i;
    SCOPED_TRACE("TROUPE_SIMULATION_SEED=" + std::to_string(seed));
    simulation world(seed);
    world.run();
    if (HasFailure()) return;
    seen.succeeded += world.outcome().succeeded;
    seen.failed += world.outcome().failed;
    seen.gated_anew += world.outcome().gated_anew;
    seen.approximate_rows += world.outcome().approximate_rows;
    counted.retries += world.counters().retries;
    counted.timed_out_calls += world.counters().timed_out_calls;
    counted.refused_calls += world.counters().refused_calls;
    counted.lost_calls += world.counters().lost_calls;
    counted.late_answers += world.counters().late_answers;
    counted.repeated_answers += world.counters().repeated_answers;
    counted.hedges_won += world.counters().hedges_won;
    counted.hedges_lost += world.counters().hedges_lost;
    counted.hedges_abandoned += world.counters().hedges_abandoned;
  }
  if (seeds < 100) return;
  // The world was hostile enough for every path to be taken.
  EXPECT_GT(seen.succeeded, 5 * seen.failed);
  for (const auto count :
       {seen.failed, seen.approximate_rows, seen.gated_anew, counted.retries, counted.timed_out_calls,
        counted.refused_calls, counted.lost_calls, counted.late_answers, counted.repeated_answers, counted.hedges_won,
        counted.hedges_lost, counted.hedges_abandoned}) {
    EXPECT_GT(count, seeds / 20);
  }
}

}  // namespace
}  // namespace troupe::router
