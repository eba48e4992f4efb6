// The dispatcher, step by step: one behaviour per test.
#include "router_node/core/dispatcher.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "common/limits.hpp"
#include "tests/router_node/fake_cluster.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using namespace troupe::router::testing;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class dispatching : public ::testing::Test {
 protected:
  void connect(std::uint32_t host, std::uint64_t incarnation = 1) {
    dispatcher_.set_link(host_name(host), link_ready{{incarnation}}, now_);
  }

  dispatch_request make(std::uint32_t rows, std::uint32_t top_k, std::vector<std::int32_t> ids,
                        std::vector<float> weights, degrade policy = degrade::wait) const {
    dispatch_request request;
    request.layer = layer;
    request.num_experts = 4;
    request.rows = rows;
    request.hidden = hidden;
    request.routing = {top_k, std::move(ids), std::move(weights), {}};
    request.policy = policy;
    request.deadline = now_ + 30s;
    return request;
  }

  request_id submit(dispatch_request request) {
    auto id = dispatcher_.submit(std::move(request), now_);
    EXPECT_TRUE(id) << id.error().message;
    return id ? *id : request_id{};
  }

  void three_hosts() {
    dispatcher_.set_map(make_map(1, {{0, 1}, {0, 1}, {1, 2}, {2}}, {1, 1, 1}), now_);
    for (std::uint32_t h = 0; h < 3; ++h) connect(h);
  }

  error only_error(const dispatch_output& output) {
    EXPECT_THAT(output.finished, SizeIs(1));
    if (output.finished.size() != 1 || output.finished[0].outcome.index() != 1) return {};
    return std::get<error>(output.finished[0].outcome);
  }

  time_point now_{std::chrono::hours(1)};
  std::mt19937_64 random_{7};
  dispatcher dispatcher_{random_};
};

TEST_F(dispatching, one_call_per_host_and_the_sum_in_call_order) {
  dispatcher_.set_map(make_map(1, {{0}, {0}, {1}, {1}}, {1, 1}), now_);
  connect(0);
  connect(1);
  auto request = make(2, 3, {0, 1, 2, 3, 0, 2}, {1, 2, 4, 1, 2, 3});
  const auto wanted = reference(request.routing, 2);
  const auto id = submit(std::move(request));
  auto out = dispatcher_.take_output();
  ASSERT_THAT(out.calls, SizeIs(2));
  EXPECT_EQ(out.calls[0].id, (call_id{id, 1}));
  EXPECT_EQ(out.calls[1].id, (call_id{id, 2}));
  EXPECT_THAT(out.calls[0].experts, ElementsAre(expert_rows{0, {1}, 2}, expert_rows{1, {1}, 1}));
  EXPECT_THAT(out.calls[0].rows, ElementsAre(0U, 1U));
  EXPECT_THAT(out.calls[0].row_index, ElementsAre(0, 1, 0));
  EXPECT_THAT(out.calls[0].gate_weight, ElementsAre(1, 2, 2));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(out.calls[1]), now_).fate, answer_fate::accepted);
  EXPECT_THAT(dispatcher_.take_output().finished, IsEmpty());
  EXPECT_EQ(dispatcher_.on_answer(answer_to(out.calls[0]), now_ + 3ms).round_trip, 3ms);
  auto done = dispatcher_.take_output();
  ASSERT_THAT(done.finished, SizeIs(1));
  const auto& result = std::get<layer_result>(done.finished[0].outcome);
  EXPECT_EQ(result.sums, wanted);
  EXPECT_THAT(result.flags, ElementsAre(0, 0));
  EXPECT_EQ(result.epoch.value, 1U);
  EXPECT_EQ(dispatcher_.rows_in_flight(), 0U);
}

TEST_F(dispatching, a_request_whose_expert_is_masked_meanwhile_is_gated_anew) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {1}, {1}}, {1, 1}), now_);
  connect(0);
  connect(1);
  auto request = make(2, 1, {0, 1}, {1, 2});
  request.choose_again = [](model::expert_mask mask) -> result<model::routing> {
    EXPECT_THAT(mask, ElementsAre(1, 0, 1, 1));
    return model::routing{1, {0, 2}, {1, 3}, {}};
  };
  submit(std::move(request));
  auto out = dispatcher_.take_output();
  ASSERT_THAT(out.calls, SizeIs(1));  // expert 1 has no replica: its row waits
  dispatcher_.set_map(make_map(2, {{0}, {}, {1}, {1}}, {1, 1}, {1}), now_);
  auto again = dispatcher_.take_output();
  ASSERT_THAT(again.calls, SizeIs(2));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(out.calls[0]), now_).fate, answer_fate::late);
  for (const auto& call : again.calls)
    EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::accepted);
  auto done = dispatcher_.take_output();
  ASSERT_THAT(done.finished, SizeIs(1));
  const auto& result = std::get<layer_result>(done.finished[0].outcome);
  EXPECT_EQ(result.sums, reference({1, {0, 2}, {1, 3}, {}}, 2));
  EXPECT_THAT(result.flags, ElementsAre(0, 0));
  EXPECT_EQ(result.epoch.value, 2U);
}

TEST_F(dispatching, a_mask_that_comes_while_all_is_called_changes_nothing) {
  three_hosts();
  auto request = make(1, 1, {3}, {2});
  request.choose_again = [](model::expert_mask) -> result<model::routing> { return fail(errc::internal, "not asked"); };
  submit(std::move(request));
  auto out = dispatcher_.take_output();
  dispatcher_.set_map(make_map(2, {{0, 1}, {0, 1}, {1, 2}, {2}}, {1, 1, 1}, {3}), now_);
  EXPECT_THAT(dispatcher_.take_output().calls, IsEmpty());
  EXPECT_EQ(dispatcher_.on_answer(answer_to(out.calls[0]), now_).fate, answer_fate::accepted);
  auto done = dispatcher_.take_output();
  ASSERT_THAT(done.finished, SizeIs(1));
  const auto& result = std::get<layer_result>(done.finished[0].outcome);
  EXPECT_EQ(result.sums, reference({1, {3}, {2}, {}}, 1));
  EXPECT_EQ(result.epoch.value, 1U) << "the map that its gating belongs to";
}

TEST_F(dispatching, a_given_choice_of_a_masked_expert_is_refused_once_nobody_has_it) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {0}, {0}}, {1}), now_);
  connect(0);
  submit(make(1, 1, {1}, {1}));
  EXPECT_THAT(dispatcher_.take_output().finished, IsEmpty());
  dispatcher_.set_map(make_map(2, {{0}, {}, {0}, {0}}, {1}, {1}), now_);
  const auto reason = only_error(dispatcher_.take_output());
  EXPECT_EQ(reason.code, errc::conflict);
  EXPECT_THAT(reason.message, HasSubstr("expert 3/1 is masked"));
}

TEST_F(dispatching, w13_late_double_and_foreign_answers_are_dropped_and_counted) {
  three_hosts();
  submit(make(1, 1, {3}, {1}));
  const auto call = dispatcher_.take_output().calls.at(0);
  auto foreign = answer_to(call);
  foreign.id.attempt = 9;
  EXPECT_EQ(dispatcher_.on_answer(foreign, now_).fate, answer_fate::foreign);
  foreign = answer_to(call);
  foreign.host = host_name(0);
  EXPECT_EQ(dispatcher_.on_answer(foreign, now_).fate, answer_fate::foreign);
  foreign = answer_to(call);
  foreign.id.request.value += 1;
  EXPECT_EQ(dispatcher_.on_answer(foreign, now_).fate, answer_fate::foreign);
  foreign = answer_to(call);
  foreign.incarnation = {77};
  EXPECT_EQ(dispatcher_.on_answer(foreign, now_).fate, answer_fate::foreign);
  foreign = answer_to(call);
  foreign.host = {"stranger"};
  EXPECT_EQ(dispatcher_.on_answer(foreign, now_).fate, answer_fate::foreign);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::accepted);
  EXPECT_THAT(dispatcher_.take_output().finished, SizeIs(1));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::late);
  EXPECT_TRUE(dispatcher_.take_output().empty());
  EXPECT_EQ(dispatcher_.counters().foreign_answers, 5U);
  EXPECT_EQ(dispatcher_.counters().late_answers, 1U);
}

TEST_F(dispatching, a_second_answer_to_an_open_request_is_a_repeated_one) {
  dispatcher_.set_map(make_map(1, {{0}, {1}, {}, {}}, {1, 1}), now_);
  connect(0);
  connect(1);
  submit(make(1, 2, {0, 1}, {1, 1}));
  const auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(2));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(calls[0]), now_).fate, answer_fate::accepted);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(calls[0]), now_).fate, answer_fate::repeated);
  EXPECT_EQ(dispatcher_.counters().repeated_answers, 1U);
}

TEST_F(dispatching, p1_a_lost_link_sends_its_experts_elsewhere_at_once) {
  three_hosts();
  auto request = make(2, 2, {0, 1, 1, 2}, {1, 2, 3, 4});
  const auto wanted = reference(request.routing, 2);
  submit(std::move(request));
  auto open = dispatcher_.take_output().calls;
  dispatcher_.set_link(host_name(1), link_down{"killed"}, now_);
  for (auto& c : dispatcher_.take_output().calls) {
    EXPECT_NE(c.host, host_name(1));
    EXPECT_TRUE(c.is_retry);
    open.push_back(c);
  }
  for (const auto& c : open) {
    if (c.host == host_name(1)) {
      EXPECT_EQ(dispatcher_.on_answer(answer_to(c), now_).fate, answer_fate::late);
    } else {
      EXPECT_EQ(dispatcher_.on_answer(answer_to(c), now_).fate, answer_fate::accepted);
    }
  }
  auto done = dispatcher_.take_output();
  ASSERT_THAT(done.finished, SizeIs(1));
  EXPECT_EQ(std::get<layer_result>(done.finished[0].outcome).sums, wanted);
}

TEST_F(dispatching, a_host_that_the_map_calls_lost_or_restarted_loses_its_calls) {
  for (const std::uint64_t incarnation : {0, 2}) {
    dispatcher d(random_);
    d.set_map(make_map(1, {{0, 1}, {}, {}, {}}, {1, 1}), now_);
    d.set_link(host_name(0), link_ready{{1}}, now_);
    d.set_link(host_name(1), link_down{"not yet"}, now_);
    ASSERT_TRUE(d.submit(make(1, 1, {0}, {1}), now_));
    ASSERT_THAT(d.take_output().calls, SizeIs(1));
    d.set_link(host_name(1), link_ready{{1}}, now_);
    d.set_map(make_map(2, {{0, 1}, {}, {}, {}}, {incarnation, 1}), now_);
    auto again = d.take_output().calls;
    ASSERT_THAT(again, SizeIs(1));
    EXPECT_EQ(again[0].host, host_name(1));
    EXPECT_EQ(again[0].epoch.value, 2U);
  }
}

TEST_F(dispatching, a_replica_that_left_the_map_keeps_its_calls) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {}, {}}, {1, 1}), now_);
  connect(0);
  connect(1);
  submit(make(1, 1, {0}, {1}));
  const auto call = dispatcher_.take_output().calls.at(0);
  dispatcher_.set_map(make_map(2, {{1}, {}, {}, {}}, {1, 1}), now_);
  EXPECT_THAT(dispatcher_.take_output().calls, IsEmpty());
  EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::accepted);
}

TEST_F(dispatching, w10_experts_that_are_not_held_go_to_another_replica) {
  dispatcher_.set_map(make_map(1, {{0}, {0, 1}, {}, {}}, {1, 1}), now_);
  connect(0);
  auto request = make(1, 2, {0, 1}, {1, 2});
  const auto wanted = reference(request.routing, 1);
  submit(std::move(request));
  const auto call = dispatcher_.take_output().calls.at(0);
  connect(1);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(call, {1}), now_).fate, answer_fate::accepted);
  const auto again = dispatcher_.take_output().calls;
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].host, host_name(1));
  EXPECT_THAT(again[0].experts, ElementsAre(expert_rows{1, {1}, 1}));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(again[0]), now_).fate, answer_fate::accepted);
  EXPECT_EQ(std::get<layer_result>(dispatcher_.take_output().finished.at(0).outcome).sums, wanted);
}

TEST_F(dispatching, a_refusing_only_replica_is_asked_again_after_a_pause) {
  three_hosts();
  submit(make(1, 1, {3}, {1}));
  const auto call = dispatcher_.take_output().calls.at(0);
  EXPECT_EQ(dispatcher_.on_answer(refusal_of(call, errc::overloaded, "full"), now_).fate, answer_fate::refused);
  EXPECT_TRUE(dispatcher_.take_output().empty());
  now_ += 2 * limits::retry_backoff_min;
  dispatcher_.tick(now_);
  const auto again = dispatcher_.take_output().calls;
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].id.attempt, 2U);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(again[0]), now_).fate, answer_fate::accepted);
}

TEST_F(dispatching, an_answer_of_the_wrong_size_counts_as_a_refusal) {
  three_hosts();
  submit(make(1, 1, {3}, {1}));
  const auto call = dispatcher_.take_output().calls.at(0);
  auto answer = answer_to(call);
  answer.outcome = to_rows(std::vector<std::byte>(5));
  EXPECT_EQ(dispatcher_.on_answer(std::move(answer), now_).fate, answer_fate::refused);
  EXPECT_EQ(dispatcher_.counters().refused_calls, 1U);
}

TEST_F(dispatching, p2_a_frozen_host_costs_one_timeout_when_there_is_another) {
  dispatcher_.set_map(make_map(1, {{0, 1}, {}, {}, {}}, {1, 1}), now_);
  connect(0);
  auto request = make(1, 1, {0}, {1});
  const auto wanted = reference(request.routing, 1);
  submit(std::move(request));
  const auto frozen = dispatcher_.take_output().calls.at(0);
  now_ += limits::attempt_timeout_default;
  dispatcher_.tick(now_);
  EXPECT_TRUE(dispatcher_.take_output().empty()) << "nobody else has it: the call must not be thrown away";
  connect(1);
  now_ += limits::attempt_timeout_default;
  dispatcher_.tick(now_);
  const auto again = dispatcher_.take_output().calls;
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_EQ(again[0].host, host_name(1));
  EXPECT_EQ(dispatcher_.on_answer(answer_to(frozen), now_).fate, answer_fate::late);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(again[0]), now_).fate, answer_fate::accepted);
  EXPECT_EQ(std::get<layer_result>(dispatcher_.take_output().finished.at(0).outcome).sums, wanted);
}

TEST_F(dispatching, a_suspect_host_is_avoided_until_it_is_heard) {
  dispatcher_.set_map(make_map(1, {{0, 1}, {}, {}, {}}, {1, 1}), now_);
  connect(0);
  submit(make(1, 1, {0}, {1}));
  const auto frozen = dispatcher_.take_output().calls.at(0);
  connect(1);
  now_ += limits::attempt_timeout_default;
  dispatcher_.tick(now_);
  for (int i = 0; i < 20; ++i) submit(make(1, 1, {0}, {1}));
  for (const auto& c : dispatcher_.take_output().calls) EXPECT_EQ(c.host, host_name(1));
  (void)dispatcher_.on_answer(answer_to(frozen), now_);
  std::size_t heard = 0;
  for (int i = 0; i < 20; ++i) submit(make(1, 1, {0}, {1}));
  for (const auto& c : dispatcher_.take_output().calls) heard += c.host == host_name(0) ? 1 : 0;
  EXPECT_EQ(heard, 20U) << "it has fewer rows in flight and is trusted again";
}

TEST_F(dispatching, p7_wait_parks_until_a_newer_map_has_a_replica) {
  dispatcher_.set_map(make_map(1, {{}, {}, {}, {}}, {1}), now_);
  connect(0);
  submit(make(1, 1, {2}, {1}));
  EXPECT_TRUE(dispatcher_.take_output().empty());
  EXPECT_EQ(dispatcher_.requests_waiting(), 1U);
  dispatcher_.set_map(make_map(2, {{}, {}, {0}, {}}, {1}), now_);
  EXPECT_THAT(dispatcher_.take_output().calls, SizeIs(1));
  EXPECT_EQ(dispatcher_.requests_waiting(), 0U);
}

TEST_F(dispatching, wait_ends_at_the_deadline_naming_the_expert) {
  dispatcher_.set_map(make_map(1, {{}, {}, {}, {}}, {1}), now_);
  submit(make(1, 1, {2}, {1}));
  dispatcher_.tick(now_ + 29s);
  EXPECT_TRUE(dispatcher_.take_output().empty());
  dispatcher_.tick(now_ + 30s);
  const auto reason = only_error(dispatcher_.take_output());
  EXPECT_EQ(reason.code, errc::timeout);
  EXPECT_THAT(reason.message, HasSubstr("3/2"));
}

TEST_F(dispatching, fail_is_unavailable_at_once_naming_the_expert) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {}, {}}, {1}), now_);
  connect(0);
  submit(make(1, 2, {0, 2}, {1, 1}, degrade::fail));
  auto out = dispatcher_.take_output();
  EXPECT_THAT(out.calls, IsEmpty()) << "nothing half done";
  const auto reason = only_error(out);
  EXPECT_EQ(reason.code, errc::unavailable);
  EXPECT_THAT(reason.message, HasSubstr("3/2"));
}

TEST_F(dispatching, a_link_that_is_being_made_is_no_reason_to_degrade) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {}, {}}, {1}), now_);
  dispatcher_.set_link(host_name(0), link_connecting{now_}, now_);
  submit(make(1, 1, {0}, {1}, degrade::fail));
  EXPECT_TRUE(dispatcher_.take_output().empty());
  dispatcher_.tick(now_ + limits::connect_timeout);
  EXPECT_EQ(only_error(dispatcher_.take_output()).code, errc::unavailable);
}

TEST_F(dispatching, renormalise_drops_the_term_and_keeps_the_sum_of_weights) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {}, {}}, {1}), now_);
  connect(0);
  submit(make(2, 2, {0, 2, 0, -1}, {0.25F, 0.75F, 0.5F, 0}, degrade::renormalise));
  const auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(1));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  const auto done = dispatcher_.take_output();
  const auto& result = std::get<layer_result>(done.finished.at(0).outcome);
  EXPECT_THAT(result.flags, ElementsAre(flag_renormalised, 0));
  EXPECT_FLOAT_EQ(result.sums[0], expert_output(0, 0, 0));
  EXPECT_FLOAT_EQ(result.sums[hidden], 0.5F * expert_output(0, 1, 0));
  EXPECT_THAT(result.routing.expert_ids, ElementsAre(0, 2, 0, -1));
}

TEST_F(dispatching, renormalise_without_any_term_left_is_unavailable) {
  dispatcher_.set_map(make_map(1, {{0}, {}, {}, {}}, {1}), now_);
  connect(0);
  submit(make(1, 2, {1, 2}, {1, 1}, degrade::renormalise));
  EXPECT_EQ(only_error(dispatcher_.take_output()).code, errc::unavailable);
}

TEST_F(dispatching, leave_out_flags_the_rows_of_a_lost_expert_and_answers_the_others) {
  dispatcher_.set_map(make_map(1, {{0}, {1}, {}, {}}, {1, 1}), now_);
  connect(0);
  connect(1);
  submit(make(3, 2, {0, 1, 0, 2, 0, -1}, {1, 2, 3, 4, 5, 0}, degrade::leave_out));
  auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(2));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  dispatcher_.set_link(host_name(1), link_down{"killed"}, now_);
  const auto done = dispatcher_.take_output();
  const auto& result = std::get<layer_result>(done.finished.at(0).outcome);
  EXPECT_THAT(result.flags, ElementsAre(flag_missing, flag_missing, 0));
  EXPECT_FLOAT_EQ(result.sums[2 * hidden], 5 * expert_output(0, 2, 0));
}

TEST_F(dispatching, substitute_chooses_again_for_the_rows_that_need_it) {
  dispatcher_.set_map(make_map(1, {{0}, {0}, {}, {0}}, {1}), now_);
  connect(0);
  auto request = make(2, 1, {0, 2}, {1, 1}, degrade::substitute);
  request.choose_again = [](model::expert_mask mask) -> result<model::routing> {
    EXPECT_THAT(std::vector<int>(mask.begin(), mask.end()), ElementsAre(1, 1, 0, 1));
    return model::routing{1, {1, 3}, {5, 6}, {}};
  };
  submit(std::move(request));
  const auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(1));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  const auto done = dispatcher_.take_output();
  const auto& result = std::get<layer_result>(done.finished.at(0).outcome);
  EXPECT_THAT(result.routing.expert_ids, ElementsAre(0, 3));
  EXPECT_THAT(result.routing.weights, ElementsAre(1, 6));
  EXPECT_THAT(result.flags, ElementsAre(0, flag_substituted));
  EXPECT_EQ(result.sums, reference(result.routing, 2));
}

TEST_F(dispatching, substitute_after_a_host_died_voids_what_was_computed_for_the_row) {
  dispatcher_.set_map(make_map(1, {{0}, {1}, {0}, {}}, {1, 1}), now_);
  connect(0);
  connect(1);
  auto request = make(2, 2, {0, 1, 0, 2}, {1, 2, 3, 4}, degrade::substitute);
  request.choose_again = [](model::expert_mask) -> result<model::routing> {
    return model::routing{2, {0, 2, 0, 2}, {5, 6, 7, 8}, {}};
  };
  submit(std::move(request));
  auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(2));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  dispatcher_.set_link(host_name(1), link_down{"killed"}, now_);
  const auto again = dispatcher_.take_output().calls;
  ASSERT_THAT(again, SizeIs(1));
  EXPECT_THAT(again[0].rows, ElementsAre(0U));
  (void)dispatcher_.on_answer(answer_to(again[0]), now_);
  const auto done = dispatcher_.take_output();
  const auto& result = std::get<layer_result>(done.finished.at(0).outcome);
  EXPECT_THAT(result.flags, ElementsAre(flag_substituted, 0));
  EXPECT_THAT(result.routing.weights, ElementsAre(5, 6, 3, 4));
  EXPECT_EQ(result.sums, reference(result.routing, 2));
}

TEST_F(dispatching, experts_of_a_group_go_to_one_host_of_several) {
  dispatcher_.set_map(make_map(1, {{0, 1}, {0, 1}, {0, 1}, {0, 1}}, {1, 1}), now_);
  connect(0);
  connect(1);
  std::set<std::string> hosts_of_first_group;
  for (int i = 0; i < 40; ++i) {
    auto request = make(1, 4, {0, 1, 2, 3}, {1, 1, 1, 1});
    request.groups = 2;
    submit(std::move(request));
    std::map<std::uint32_t, std::string> host_of;
    for (const auto& call : dispatcher_.take_output().calls) {
      for (const auto& e : call.experts) host_of[e.expert] = call.host.value;
      EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::accepted);
    }
    EXPECT_EQ(host_of[0], host_of[1]);
    EXPECT_EQ(host_of[2], host_of[3]);
    hosts_of_first_group.insert(host_of[0]);
    EXPECT_THAT(dispatcher_.take_output().finished, SizeIs(1));
  }
  EXPECT_THAT(hosts_of_first_group, SizeIs(2)) << "the group's load is shared by its replicas";
}

TEST_F(dispatching, a_group_is_split_where_no_host_has_all_of_it) {
  dispatcher_.set_map(make_map(1, {{0}, {1}, {0, 1}, {0, 1}}, {1, 1}), now_);
  connect(0);
  connect(1);
  auto request = make(1, 2, {0, 1}, {1, 1});
  request.groups = 2;
  submit(std::move(request));
  EXPECT_THAT(dispatcher_.take_output().calls, SizeIs(2));
}

TEST_F(dispatching, rows_whose_choice_a_group_limit_changed_are_flagged_as_substituted) {
  three_hosts();
  auto request = make(2, 1, {0, 3}, {1, 1});
  request.routing.limited = {0, 1};
  submit(std::move(request));
  for (const auto& call : dispatcher_.take_output().calls) {
    EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::accepted);
  }
  const auto done = dispatcher_.take_output();
  ASSERT_THAT(done.finished, SizeIs(1));
  EXPECT_THAT(std::get<layer_result>(done.finished[0].outcome).flags, ElementsAre(0, flag_substituted));
}

TEST_F(dispatching, capacity_drops_are_flagged_and_not_sent) {
  three_hosts();
  auto request = make(2, 1, {3, 3}, {1, 1});
  request.routing.dropped = {0, 1};
  submit(std::move(request));
  const auto calls = dispatcher_.take_output().calls;
  ASSERT_THAT(calls, SizeIs(1));
  EXPECT_THAT(calls[0].rows, ElementsAre(0U));
  (void)dispatcher_.on_answer(answer_to(calls[0]), now_);
  const auto done = dispatcher_.take_output();
  EXPECT_THAT(std::get<layer_result>(done.finished.at(0).outcome).flags, ElementsAre(0, flag_dropped));
}

TEST_F(dispatching, rows_without_experts_need_no_call_and_a_double_expert_is_one_assignment) {
  three_hosts();
  submit(make(1, 2, {-1, -1}, {0, 0}));
  EXPECT_THAT(dispatcher_.take_output().finished, SizeIs(1));
  submit(make(1, 2, {3, 3}, {1, 2}));
  EXPECT_THAT(dispatcher_.take_output().calls.at(0).gate_weight, ElementsAre(3));
}

TEST_F(dispatching, o1_admission_is_bounded_at_once) {
  dispatcher_.set_map(make_map(1, {{}, {}, {}, {}}, {1}), now_);
  const auto rows = limits::rows_per_request_max;
  for (std::uint64_t admitted = 0; admitted + rows <= limits::inflight_rows_max; admitted += rows) {
    submit(make(rows, 1, std::vector<std::int32_t>(rows, 0), std::vector<float>(rows, 1)));
  }
  auto refused = dispatcher_.submit(make(1, 1, {0}, {1}), now_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::overloaded);
  dispatcher_.cancel({1});
  EXPECT_TRUE(dispatcher_.submit(make(1, 1, {0}, {1}), now_));
}

TEST_F(dispatching, o1_admission_is_bounded_in_bytes) {
  auto request = make(8, 1, std::vector<std::int32_t>(8, 0), std::vector<float>(8, 1));
  request.hidden = static_cast<std::uint32_t>(limits::inflight_bytes_max / 16 / 8 + 1);
  auto refused = dispatcher_.submit(std::move(request), now_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::overloaded);
}

TEST_F(dispatching, o10_a_deadline_that_has_passed_is_refused_before_any_work) {
  three_hosts();
  auto request = make(1, 1, {3}, {1});
  request.deadline = now_;
  auto refused = dispatcher_.submit(std::move(request), now_);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::timeout);
}

TEST_F(dispatching, p13_a_cancelled_request_leaves_nothing) {
  three_hosts();
  const auto id = submit(make(1, 1, {3}, {1}));
  const auto call = dispatcher_.take_output().calls.at(0);
  dispatcher_.cancel(id);
  EXPECT_EQ(dispatcher_.requests_in_flight(), 0U);
  EXPECT_EQ(dispatcher_.rows_in_flight(), 0U);
  EXPECT_EQ(dispatcher_.on_answer(answer_to(call), now_).fate, answer_fate::late);
  EXPECT_TRUE(dispatcher_.take_output().empty());
}

TEST_F(dispatching, o9_retries_live_on_a_budget) {
  three_hosts();
  std::size_t asked = 0;
  for (int i = 0; i < 600; ++i) submit(make(1, 1, {3}, {1}));
  auto calls = dispatcher_.take_output().calls;
  for (int round = 0; round < 5; ++round) {
    for (const auto& c : calls) (void)dispatcher_.on_answer(refusal_of(c, errc::overloaded, "full"), now_);
    now_ += 10ms * (1 << round);
    dispatcher_.tick(now_);
    calls = dispatcher_.take_output().calls;
    asked += calls.size();
  }
  EXPECT_GT(asked, 100U);
  EXPECT_LT(asked, 400U) << "600 requests, refused five times, would be 3000 retries";
}

}  // namespace
}  // namespace troupe::router
