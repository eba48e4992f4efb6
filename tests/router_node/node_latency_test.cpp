// Slow hosts from call times alone, in virtual time: noticed, given less, left out, and taken back.
#include "router_node/core/node_latency.hpp"

#include <functional>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using nanoseconds = std::chrono::nanoseconds;

TEST(call_cost, finds_base_rows_and_experts) {
  call_cost cost;
  EXPECT_EQ(cost.expected({1, 1}), 0.0);
  std::mt19937_64 random(3);
  std::uniform_int_distribution<std::uint32_t> rows(1, 300);
  std::uniform_int_distribution<std::uint32_t> experts(1, 12);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  for (int i = 0; i < 2000; ++i) {
    const call_size size{rows(random), experts(random)};
    const auto taken = 2e-4 + 1e-5 * size.assignments + 3e-4 * size.experts;
    cost.record(size, taken * noise(random) * (i % 50 == 0 ? 100 : 1));
  }
  for (const auto size : {call_size{1, 1}, call_size{300, 1}, call_size{20, 12}, call_size{200, 8}}) {
    const auto exact = 2e-4 + 1e-5 * size.assignments + 3e-4 * size.experts;
    EXPECT_NEAR(cost.expected(size) / exact, 1, 0.15) << size.assignments << " rows, " << size.experts << " experts";
  }
}

TEST(call_cost, one_size_only_is_not_singular) {
  call_cost cost;
  for (int i = 0; i < 200; ++i) cost.record({4, 2}, 1e-3);
  EXPECT_NEAR(cost.expected({4, 2}), 1e-3, 2e-5);
  EXPECT_GT(cost.expected({8, 4}), 1e-3);
}

TEST(call_cost, follows_a_change) {
  call_cost cost;
  for (int i = 0; i < 1000; ++i) cost.record({4, 2}, 1e-3);
  for (int i = 0; i < 8000; ++i) cost.record({4, 2}, 5e-3);
  EXPECT_NEAR(cost.expected({4, 2}), 5e-3, 5e-4);
}

// Three hosts with one closed-loop client each.
class pacing : public ::testing::Test {
 protected:
  using answer_time = std::function<nanoseconds(nanoseconds since_begin, nanoseconds usual)>;

  pacing() {
    for (host_index h = 0; h < 3; ++h) latency_.on_link(h, incarnation_number{1});
  }

  nanoseconds usual(call_size size) { return 300us + size.assignments * 10us + size.experts * 100us; }

  // Runs for so long; host 2 answers as `its` says. Changes are gathered with the time they came at.
  void run(nanoseconds length, const answer_time& its) {
    const auto end = now_ + length;
    while (now_ < end) {
      now_ += 1ms;
      for (host_index h = 0; h < 3; ++h) step(h, its);
      if (latency_.next_check() > now_) continue;
      for (auto& c : latency_.check(now_)) {
        EXPECT_EQ(c.host, 2U) << c.reason;
        changes_.push_back(c.to);
        reasons_.push_back(c.reason);
        changed_at_.push_back(now_ - begin_);
      }
    }
  }

  void step(host_index h, const answer_time& its) {
    auto& open = open_[h];
    if (open && *open <= now_) {
      latency_.on_answer(h, ids_[h], *open);
      open.reset();
    }
    if (open) return;
    if (latency_.pace(h) == node_pace::quarantined) {
      if (!latency_.wants_probe(h, now_)) return;
      latency_.on_probe(h, now_, random_);
      ++probes_;
    }
    const call_size size{std::uniform_int_distribution<std::uint32_t>(1, 64)(random_), 2};
    ids_[h] = {{++last_id_}, 1};
    latency_.on_sent(h, ids_[h], size, now_);
    open = now_ + (h == 2 ? its(now_ - begin_, usual(size)) : usual(size));
  }

  // Stopped for 100 ms of 125 ms.
  static nanoseconds pulsed(nanoseconds since, nanoseconds usual) {
    const auto into = since % 125ms;
    return into < 100ms ? 100ms - into + usual : usual;
  }

  node_latency latency_;
  std::mt19937_64 random_{5};
  const time_point begin_{std::chrono::hours(1)};
  time_point now_{begin_};
  std::array<std::optional<time_point>, 3> open_;
  std::array<call_id, 3> ids_;
  std::uint64_t last_id_{};
  std::uint32_t probes_{};
  std::vector<node_pace> changes_;
  std::vector<std::string> reasons_;
  std::vector<nanoseconds> changed_at_;
};

const auto as_usual = [](nanoseconds, nanoseconds usual) { return usual; };

TEST_F(pacing, hosts_of_the_same_speed_stay_normal) {
  run(20s, as_usual);
  EXPECT_THAT(changes_, IsEmpty());
  const auto longest = latency_.usual_longest({32, 2});
  ASSERT_TRUE(longest);
  EXPECT_NEAR(std::chrono::duration<double>(*longest).count(), 820e-6, 200e-6);
}

TEST_F(pacing, twice_as_slow_is_not_slow) {
  run(20s, [](nanoseconds, nanoseconds usual) { return 2 * usual; });
  EXPECT_THAT(changes_, IsEmpty());
}

TEST_F(pacing, five_times_as_slow_is_noticed_left_out_and_taken_back) {
  run(5s, as_usual);
  run(5s, [](nanoseconds, nanoseconds usual) { return 5 * usual; });
  ASSERT_THAT(changes_, ElementsAre(node_pace::slow, node_pace::quarantined));
  EXPECT_LT(changed_at_[0], 10s);
  EXPECT_THAT(reasons_[0], HasSubstr("ms per call"));
  EXPECT_GT(latency_.slowness(2), 3);
  run(10s, as_usual);
  EXPECT_THAT(changes_, ElementsAre(node_pace::slow, node_pace::quarantined, node_pace::normal));
  EXPECT_EQ(latency_.slowness(2), 1);
}

TEST_F(pacing, pulses_are_noticed_within_five_seconds_and_not_taken_for_recovery) {
  run(5s, as_usual);
  run(60s, pulsed);
  ASSERT_THAT(changes_, ElementsAre(node_pace::slow, node_pace::quarantined));
  EXPECT_LT(changed_at_[0], 10s);
  EXPECT_GT(probes_, 100U);
  EXPECT_LT(probes_, 700U) << "one at a time, about five in a second";
  run(10s, as_usual);
  EXPECT_EQ(latency_.pace(2), node_pace::normal);
}

TEST_F(pacing, a_host_that_never_answers_is_noticed) {
  run(5s, as_usual);
  run(5s, [](nanoseconds, nanoseconds) { return nanoseconds(1h); });
  ASSERT_THAT(changes_, ElementsAre(node_pace::slow, node_pace::quarantined));
  EXPECT_LT(changed_at_[0], 10s);
}

TEST_F(pacing, another_run_of_the_host_begins_as_normal) {
  run(5s, as_usual);
  run(5s, pulsed);
  ASSERT_EQ(latency_.pace(2), node_pace::quarantined);
  latency_.on_link(2, std::nullopt);
  latency_.on_link(2, incarnation_number{1});
  EXPECT_EQ(latency_.pace(2), node_pace::quarantined);
  EXPECT_EQ(latency_.calls_under_way(2), 0U);
  latency_.on_link(2, incarnation_number{2});
  EXPECT_EQ(latency_.pace(2), node_pace::normal);
}

// Between its stops a host of small experts answers thousands of calls; those that it kept waiting must count beside
// them.
TEST(node_latency, stops_are_noticed_however_many_calls_come_between) {
  constexpr std::chrono::milliseconds period = 1s, stop = 800ms;
  constexpr std::uint64_t clients = 4;
  node_latency latency;
  time_point now{1h};
  std::uint64_t last = 0;
  auto ask = [&](host_index host, nanoseconds taken) {
    latency.on_sent(host, {{++last}, 1}, {4, 2}, now);
    latency.on_answer(host, {{last}, 1}, now + taken);
  };
  std::vector<node_pace> changes;
  for (auto since = 0ms; since < 5s && changes.size() < 2; since += 1ms, now += 1ms) {
    const auto into = since % period;
    for (std::uint64_t i = 0; i < clients; ++i) {
      ask(0, 500us);
      ask(1, 500us);
      if (into >= stop) ask(2, 500us);
    }
    if (into == 0ms) {
      for (std::uint64_t i = 0; i < clients; ++i) latency.on_sent(2, {{1'000'000 + i}, 1}, {4, 2}, now);
    } else if (into == stop) {
      for (std::uint64_t i = 0; i < clients; ++i) latency.on_answer(2, {{1'000'000 + i}, 1}, now);
    }
    if (latency.next_check() > now) continue;
    for (auto& change : latency.check(now)) changes.push_back(change.to);
  }
  EXPECT_THAT(changes, ElementsAre(node_pace::slow, node_pace::quarantined));
}

TEST(node_latency, a_host_alone_is_compared_with_nobody) {
  node_latency latency;
  time_point now{1h};
  for (std::uint64_t i = 0; i < 3000; ++i, now += 10ms) {
    latency.on_sent(0, {{i}, 1}, {4, 2}, now);
    latency.on_answer(0, {{i}, 1}, now + (i < 1000 ? 1ms : 9ms));
    if (latency.next_check() > now) continue;
    EXPECT_THAT(latency.check(now), IsEmpty());
  }
}

TEST(node_latency, refused_calls_say_nothing) {
  node_latency latency;
  latency.on_sent(0, {{1}, 1}, {4, 2}, time_point{1h});
  latency.forget(0, {{1}, 1});
  latency.on_answer(0, {{1}, 1}, time_point{2h});
  EXPECT_EQ(latency.calls_under_way(0), 0U);
  EXPECT_FALSE(latency.usual_longest({4, 2}));
}

}  // namespace
}  // namespace troupe::router
