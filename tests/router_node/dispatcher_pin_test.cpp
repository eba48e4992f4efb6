// Requests that name the map by whose expert versions they go: after other versions are served, until nobody holds
// them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "router_node/core/dispatcher.hpp"
#include "tests/router_node/fake_cluster.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using namespace troupe::router::testing;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::uint8_t gone = flag_missing | flag_gone;

class pinning : public ::testing::Test {
 protected:
  pinning() {
    // Experts 0 and 1 get version 2 on hosts 2 and 3, experts 2 and 3 stay as they are.
    dispatcher_.set_map(make_map(4, {{0}, {1}, {0}, {1}}, {1, 1, 1, 1}), now_);
    for (std::uint32_t h = 0; h < 4; ++h) dispatcher_.set_link(host_name(h), link_ready{{1}}, now_);
  }

  void go_over(std::uint64_t epoch = 5) {
    dispatcher_.set_map(make_map(epoch, {{2}, {3}, {0}, {1}}, {1, 1, 1, 1}, {}, both_changed), now_);
  }

  std::vector<outgoing_call> submit(std::vector<std::int32_t> ids, std::optional<epoch_number> versions_of) {
    dispatch_request request;
    request.layer = layer;
    request.num_experts = 4;
    request.rows = 1;
    request.hidden = hidden;
    const auto k = static_cast<std::uint32_t>(ids.size());
    request.routing = {k, std::move(ids), std::vector<float>(k, 1), {}};
    request.versions_of = versions_of;
    request.policy = degrade::leave_out;
    request.deadline = now_ + 30s;
    auto id = dispatcher_.submit(std::move(request), now_);
    EXPECT_TRUE(id) << id.error().message;
    auto out = dispatcher_.take_output();
    finished_ = std::move(out.finished);
    return std::move(out.calls);
  }

  layer_result answer(const std::vector<outgoing_call>& calls) {
    for (const auto& call : calls) (void)dispatcher_.on_answer(answer_to(call), now_);
    finished_ = dispatcher_.take_output().finished;
    return result();
  }
  layer_result result() {
    EXPECT_THAT(finished_, SizeIs(1));
    return finished_.empty() ? layer_result{} : std::get<layer_result>(finished_.front().outcome);
  }

  static model::routing routing(std::vector<std::int32_t> ids) {
    const auto k = static_cast<std::uint32_t>(ids.size());
    return {k, std::move(ids), std::vector<float>(k, 1), {}};
  }

  const versions both_changed{{0, 2}, {1, 2}};
  time_point now_{std::chrono::hours(1)};
  std::mt19937_64 random_{7};
  dispatcher dispatcher_{random_};
  std::vector<finished_request> finished_;
};

TEST_F(pinning, a_pinned_request_gets_the_versions_of_its_map_and_others_those_that_are_served) {
  go_over();
  const auto calls = submit({0, 1, 2, 3}, epoch_number{4});
  ASSERT_THAT(calls, SizeIs(2));
  EXPECT_EQ(calls[0].host, host_name(0));
  EXPECT_THAT(calls[0].experts, ElementsAre(expert_rows{0, {1}, 1}, expert_rows{2, {1}, 1}));
  EXPECT_EQ(calls[1].host, host_name(1));
  const auto old = answer(calls);
  EXPECT_EQ(old.sums, reference(routing({0, 1, 2, 3}), 1));
  EXPECT_EQ(old.epoch.value, 4U) << "whose versions it is the answer of";
  const auto now = answer(submit({0, 1, 2, 3}, std::nullopt));
  EXPECT_EQ(now.sums, reference(routing({0, 1, 2, 3}), 1, both_changed));
  EXPECT_EQ(now.epoch.value, 5U);
  EXPECT_EQ(answer(submit({0}, epoch_number{5})).sums, reference(routing({0}), 1, both_changed));
}

TEST_F(pinning, a_pinned_request_that_waits_does_not_begin_anew_with_other_versions) {
  dispatcher_.set_link(host_name(1), link_connecting{now_}, now_);
  auto calls = submit({0, 1}, epoch_number{4});
  ASSERT_THAT(calls, SizeIs(1));  // expert 1 waits for its link
  go_over();
  EXPECT_THAT(dispatcher_.take_output().calls, IsEmpty());
  dispatcher_.set_link(host_name(1), link_ready{{1}}, now_);
  auto more = dispatcher_.take_output().calls;
  ASSERT_THAT(more, SizeIs(1));
  calls.push_back(more.front());
  EXPECT_EQ(answer(calls).sums, reference(routing({0, 1}), 1));
}

TEST_F(pinning, what_moved_before_it_was_replaced_is_asked_for_where_it_was_last) {
  dispatcher_.set_map(make_map(5, {{2}, {1}, {0}, {1}}, {1, 1, 1, 1}, {}, {{1, 2}}), now_);      // 0 moved, 1 went over
  dispatcher_.set_map(make_map(6, {{3}, {1}, {0}, {1}}, {1, 1, 1, 1}, {}, both_changed), now_);  // 0 went over
  const auto calls = submit({0, 2}, epoch_number{4});
  ASSERT_THAT(calls, SizeIs(2));
  EXPECT_EQ(calls[0].host, host_name(0));
  EXPECT_THAT(calls[0].experts, ElementsAre(expert_rows{2, {1}, 1})) << "served as ever";
  EXPECT_EQ(calls[1].host, host_name(2)) << "not host 0, where it was by map 4";
  EXPECT_THAT(calls[1].experts, ElementsAre(expert_rows{0, {1}, 1}));
}

TEST_F(pinning, a_version_that_comes_back_is_asked_for_where_it_is_now) {
  go_over();
  dispatcher_.set_map(make_map(6, {{3}, {3}, {0}, {1}}, {1, 1, 1, 1}), now_);
  const auto calls = submit({0, 1}, epoch_number{4});
  ASSERT_THAT(calls, SizeIs(1));
  EXPECT_EQ(calls[0].host, host_name(3));
  EXPECT_EQ(answer(calls).sums, reference(routing({0, 1}), 1));
}

TEST_F(pinning, who_does_not_hold_it_any_more_is_not_asked_again_and_the_rows_are_gone) {
  go_over();
  const auto calls = submit({0}, epoch_number{4});
  ASSERT_THAT(calls, SizeIs(1));
  (void)dispatcher_.on_answer(answer_to(calls[0], {0}), now_);
  finished_ = dispatcher_.take_output().finished;
  EXPECT_THAT(result().flags, ElementsAre(gone));
  EXPECT_THAT(submit({0}, epoch_number{4}), IsEmpty());
  EXPECT_THAT(result().flags, ElementsAre(gone));
  EXPECT_EQ(answer(submit({1}, epoch_number{4})).sums, reference(routing({1}), 1)) << "the other one is there";
}

TEST_F(pinning, a_host_that_was_restarted_or_lost_takes_the_version_with_it) {
  go_over();
  dispatcher_.set_map(make_map(6, {{2}, {3}, {2}, {3}}, {0, 9, 1, 1}, {}, both_changed), now_);
  dispatcher_.set_link(host_name(1), link_ready{{9}}, now_);
  for (const std::int32_t expert : {0, 1}) {
    EXPECT_THAT(submit({expert}, epoch_number{4}), IsEmpty());
    EXPECT_THAT(result().flags, ElementsAre(gone));
  }
}

TEST_F(pinning, a_link_that_is_down_is_no_reason_to_give_up) {
  go_over();
  dispatcher_.set_link(host_name(0), link_down{"gone for a moment"}, now_);
  EXPECT_THAT(submit({0}, epoch_number{4}), IsEmpty());
  EXPECT_THAT(result().flags, ElementsAre(flag_missing));
  dispatcher_.set_link(host_name(0), link_ready{{1}}, now_);
  EXPECT_EQ(answer(submit({0}, epoch_number{4})).sums, reference(routing({0}), 1));
}

TEST_F(pinning, released_versions_are_forgotten_and_later_ones_kept) {
  go_over(5);
  dispatcher_.set_map(make_map(7, {{0}, {1}, {0}, {1}}, {1, 1, 1, 1}, {}, {{0, 3}, {1, 3}}), now_);
  dispatcher_.release_versions({5});
  const auto calls = submit({0}, epoch_number{5});
  ASSERT_THAT(calls, SizeIs(1));
  EXPECT_EQ(calls[0].host, host_name(2));
  EXPECT_EQ(calls[0].experts[0].version.value, 2U);
  EXPECT_EQ(dispatcher_.hosts().weights_at(layer, {4}), dispatcher_.hosts().weights_at(layer, {5}));
}

TEST_F(pinning, of_a_layer_that_goes_over_again_and_again_the_oldest_versions_are_given_up) {
  for (std::uint32_t n = 1; n <= limits::held_versions_max + 1; ++n) {
    dispatcher_.set_map(make_map(4 + n, {{0}, {1}, {0}, {1}}, {1, 1, 1, 1}, {}, {{0, 1 + n}}), now_);
  }
  EXPECT_THAT(submit({0}, epoch_number{4}), IsEmpty());
  EXPECT_THAT(result().flags, ElementsAre(gone));
  const auto calls = submit({0}, epoch_number{5});
  ASSERT_THAT(calls, SizeIs(1));
  EXPECT_EQ(calls[0].experts[0].version.value, 2U);
}

}  // namespace
}  // namespace troupe::router
