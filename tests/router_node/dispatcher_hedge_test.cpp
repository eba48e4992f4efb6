// Hedged calls and slow hosts in the dispatcher, step by step: one behaviour per test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "router_node/core/dispatcher.hpp"
#include "tests/router_node/fake_cluster.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using namespace troupe::router::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Experts 0 and 1 can be had on host 0; expert 0 on host 1 too, expert 1 on host 2 too.
class hedging : public ::testing::Test {
 protected:
  hedging() {
    dispatcher_.set_map(make_map(1, {{0, 1}, {0, 2}, {1, 2}, {0}}, {1, 1, 1}), now_);
    for (std::uint32_t h = 0; h < 3; ++h) dispatcher_.set_link(host_name(h), link_ready{{1}}, now_);
  }

  request_id submit(std::vector<std::int32_t> ids) {
    dispatch_request request;
    request.layer = layer;
    request.num_experts = 4;
    request.rows = 1;
    request.hidden = hidden;
    request.routing = {static_cast<std::uint32_t>(ids.size()), ids, std::vector<float>(ids.size(), 1.0F), {}};
    request.deadline = now_ + 30s;
    wanted_ = reference(request.routing, 1);
    auto id = dispatcher_.submit(std::move(request), now_);
    EXPECT_TRUE(id);
    return id ? *id : request_id{};
  }

  // Answers of 1 ms until times are known and the budget allows `tokens` hedged calls.
  void warm_up(std::size_t tokens) {
    for (std::size_t i = 0; i < 100 + 20 * tokens; ++i) {
      submit({static_cast<std::int32_t>(i % 3)});
      answer_all(1ms);
    }
    now_ += limits::node_pace_check_interval;
    submit({2});
    dispatcher_.tick(now_);
    answer_all(1ms);
  }

  void answer_all(std::chrono::nanoseconds later) {
    now_ += later;
    for (const auto& call : dispatcher_.take_output().calls) (void)dispatcher_.on_answer(answer_to(call), now_);
    (void)dispatcher_.take_output();
  }

  // Experts 0 and 1 of host 0 in one call; then the other hosts are there again.
  outgoing_call call_of_both() {
    for (const std::uint32_t h : {1U, 2U}) dispatcher_.set_link(host_name(h), link_down{"away"}, now_);
    submit({0, 1});
    for (const std::uint32_t h : {1U, 2U}) dispatcher_.set_link(host_name(h), link_ready{{1}}, now_);
    return dispatcher_.take_output().calls.at(0);
  }

  std::vector<outgoing_call> hedges() {
    now_ += limits::hedge_after_min;
    dispatcher_.tick(now_);
    return dispatcher_.take_output().calls;
  }

  void expect_finished() {
    auto done = dispatcher_.take_output();
    EXPECT_THAT(done.calls, IsEmpty());
    ASSERT_THAT(done.finished, SizeIs(1));
    ASSERT_TRUE(std::holds_alternative<layer_result>(done.finished[0].outcome));
    EXPECT_EQ(std::get<layer_result>(done.finished[0].outcome).sums, wanted_);
    EXPECT_EQ(dispatcher_.rows_in_flight(), 0U);
    for (const auto& h : dispatcher_.hosts().all()) EXPECT_EQ(h.rows_in_flight, 0U) << h.name.value;
  }

  time_point now_{std::chrono::hours(1)};
  std::mt19937_64 random_{7};
  dispatcher dispatcher_{random_};
  std::vector<float> wanted_;
};

TEST_F(hedging, nothing_is_hedged_before_times_are_known) {
  submit({0});
  (void)dispatcher_.take_output();
  EXPECT_THAT(hedges(), IsEmpty());
}

TEST_F(hedging, the_first_call_was_first) {
  warm_up(4);
  const auto first = call_of_both();
  const auto doubles = hedges();
  ASSERT_THAT(doubles, SizeIs(2)) << "no other host has both experts";
  EXPECT_EQ(doubles[0].host, host_name(1));
  EXPECT_EQ(doubles[1].host, host_name(2));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(doubles[0]), now_).fate, answer_fate::accepted);
  EXPECT_THAT(dispatcher_.take_output().finished, IsEmpty()) << "one of two doubles is not enough";
  EXPECT_EQ(dispatcher_.on_answer(answer_to(first), now_).fate, answer_fate::accepted);
  expect_finished();
  EXPECT_EQ(dispatcher_.on_answer(answer_to(doubles[1]), now_).fate, answer_fate::late);
  EXPECT_EQ(dispatcher_.counters().hedges_lost, 2U);
}

TEST_F(hedging, the_doubles_were_first) {
  warm_up(4);
  const auto first = call_of_both();
  const auto doubles = hedges();
  ASSERT_THAT(doubles, SizeIs(2));
  for (const auto& call : doubles) (void)dispatcher_.on_answer(answer_to(call), now_);
  expect_finished();
  EXPECT_EQ(dispatcher_.on_answer(answer_to(first), now_).fate, answer_fate::late);
  EXPECT_EQ(dispatcher_.counters().hedges_won, 2U);
  EXPECT_EQ(dispatcher_.counters().hedged_calls, 2U);
}

TEST_F(hedging, a_double_that_fails_leaves_the_first_call_alone) {
  warm_up(4);
  const auto first = call_of_both();
  const auto doubles = hedges();
  ASSERT_THAT(doubles, SizeIs(2));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(doubles[0]), now_).fate, answer_fate::accepted);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(doubles[1], {1}), now_).fate, answer_fate::refused);
  EXPECT_TRUE(dispatcher_.take_output().empty());
  EXPECT_EQ(dispatcher_.counters().hedges_abandoned, 2U);
  (void)dispatcher_.on_answer(answer_to(first), now_);
  expect_finished();
}

TEST_F(hedging, a_first_call_that_is_lost_leaves_its_terms_to_the_doubles) {
  warm_up(4);
  (void)call_of_both();
  const auto doubles = hedges();
  ASSERT_THAT(doubles, SizeIs(2));
  (void)dispatcher_.on_answer(answer_to(doubles[0]), now_);
  dispatcher_.set_link(host_name(0), link_down{"gone"}, now_);
  EXPECT_TRUE(dispatcher_.take_output().empty()) << "they are asked already";
  (void)dispatcher_.on_answer(answer_to(doubles[1]), now_);
  expect_finished();
}

TEST_F(hedging, an_expert_without_another_replica_is_waited_for) {
  warm_up(4);
  submit({3});
  const auto first = dispatcher_.take_output().calls.at(0);
  EXPECT_THAT(hedges(), IsEmpty());
  (void)dispatcher_.on_answer(answer_to(first), now_);
  expect_finished();
}

TEST_F(hedging, a_cancelled_request_leaves_nothing) {
  warm_up(4);
  const auto first = call_of_both();
  ASSERT_THAT(hedges(), SizeIs(2));
  EXPECT_TRUE(dispatcher_.cancel(first.id.request));
  EXPECT_EQ(dispatcher_.counters().hedges_abandoned, 2U);
  EXPECT_EQ(dispatcher_.rows_in_flight(), 0U);
  for (const auto& h : dispatcher_.hosts().all()) EXPECT_EQ(h.rows_in_flight, 0U);
}

TEST_F(hedging, the_budget_is_a_twentieth_of_the_first_calls_at_any_time) {
  warm_up(1);
  for (int i = 0; i < 2000; ++i) {
    submit({i % 3});
    auto calls = dispatcher_.take_output().calls;
    if (i % 10 == 0) std::ranges::move(hedges(), std::back_inserter(calls));
    for (const auto& call : calls) (void)dispatcher_.on_answer(answer_to(call), now_);
    (void)dispatcher_.take_output();
    now_ += 1ms;
    const auto& counted = dispatcher_.counters();
    const auto first_calls = counted.calls - counted.retries - counted.hedged_calls;
    ASSERT_LE(static_cast<double>(counted.hedged_calls), limits::hedge_share_max * static_cast<double>(first_calls));
  }
  EXPECT_GT(dispatcher_.counters().hedged_calls, 10U);
  EXPECT_GT(dispatcher_.counters().hedges_denied, 0U);
}

// Host 0 takes 50 ms, the others 1 ms; then all take 1 ms.
TEST_F(hedging, a_slow_host_is_left_out_probed_and_taken_back) {
  warm_up(4);
  std::vector<std::pair<time_point, outgoing_call>> answers;
  std::vector<pace_change> changes;
  std::vector<std::size_t> calls_to_0;  // by second
  bool is_slow = true;
  const auto begin = now_;
  std::size_t open = 0;
  for (int ms = 0; ms < 20'000; ++ms, now_ += 1ms) {
    is_slow = now_ - begin < 10s;
    if (ms % 1000 == 0) calls_to_0.push_back(0);
    if (ms % 3 == 0) {
      submit({ms % 2});
      ++open;
    }
    dispatcher_.tick(now_);
    std::erase_if(answers, [&](const auto& due) {
      if (due.first > now_) return false;
      (void)dispatcher_.on_answer(answer_to(due.second), now_);
      return true;
    });
    auto out = dispatcher_.take_output();
    for (auto& call : out.calls) {
      const bool is_0 = call.host == host_name(0);
      calls_to_0.back() += is_0 ? 1 : 0;
      answers.emplace_back(now_ + (is_0 && is_slow ? 50ms : 1ms), std::move(call));
    }
    open -= out.finished.size();
    std::ranges::move(out.pace_changes, std::back_inserter(changes));
  }
  EXPECT_LE(open, 20U);
  ASSERT_THAT(changes, SizeIs(3));
  for (const auto& change : changes) EXPECT_EQ(change.host, host_name(0));
  EXPECT_EQ(changes[1].to, node_pace::quarantined);
  EXPECT_THAT(changes[1].reason, HasSubstr("x the"));
  EXPECT_EQ(changes[2].to, node_pace::normal);
  EXPECT_LE(calls_to_0[8], 12U) << "probes only";
  EXPECT_GE(calls_to_0[8], 1U);
  EXPECT_GT(calls_to_0.back(), 50U) << "it gets work again";
}

TEST_F(hedging, the_only_replica_on_a_slow_host_still_gets_its_rows) {
  warm_up(4);
  for (int i = 0; i < 2000; ++i) {
    submit({i % 3});
    submit({3});
    dispatcher_.tick(now_);
    for (const auto& call : dispatcher_.take_output().calls) {
      (void)dispatcher_.on_answer(answer_to(call), now_ + (call.host == host_name(0) ? 50ms : 1ms));
    }
    now_ += 5ms;
  }
  (void)dispatcher_.take_output();
  ASSERT_NE(dispatcher_.hosts().all()[0].pace, node_pace::normal);
  submit({3});
  const auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(1));
  EXPECT_EQ(calls[0].host, host_name(0));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  expect_finished();
}

}  // namespace
}  // namespace troupe::router
