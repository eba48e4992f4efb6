// Other weights for experts where free slots are short: as many at a time as find room, and back the same way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/core/operations.hpp"
#include "tests/coordinator/core/refresh_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// a with `slots_a`, b with `slots_b`; six experts.
core_harness nodes_with(std::uint32_t slots_a, std::uint32_t slots_b) {
  core_harness h(two_layers());
  h.add_expert_node("a", slots_a);
  h.add_expert_node("b", slots_b);
  h.add_router("r");
  h.converge();
  return h;
}

// Passes and obeys until `is_over`; every map that was served meanwhile.
template <class IsOver>
std::vector<std::string> watch(core_harness& h, IsOver is_over, std::vector<std::string> nodes = {"a", "b"}) {
  std::vector<std::string> seen{served(h)};
  for (int round = 0; round < 600 && !is_over(); ++round) {
    h.pass(50ms);
    for (const auto& node : nodes) {
      static_cast<void>(h.obey(node));
      EXPECT_LE(h.state().nodes.at({node}).slots.size(), h.state().nodes.at({node}).facts.slots_total);
    }
    h.acknowledge("r");
    if (seen.back() != served(h)) seen.push_back(served(h));
  }
  return seen;
}
auto until_ended(const core_harness& h) {
  return [&h] { return newest(h).state != operation_state::running; };
}

TEST(refresh_batches, a_layer_that_does_not_fit_goes_over_in_batches_each_expert_where_it_is) {
  auto h = nodes_with(4, 4);
  const auto before = h.placement();
  auto answer = h.command(from_folder({0, 1, 2}));
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_THAT(answer->message, HasSubstr("6 experts of 2 layers go over to version 2, layer by layer; a layer goes "
                                         "over in batches where free slots are short"));
  EXPECT_THAT(watch(h, until_ended(h)),
              ElementsAre("1 1 1 | 1 1 1", "2 2 1 | 1 1 1", "2 2 2 | 1 1 1", "2 2 2 | 2 2 1", "2 2 2 | 2 2 2"));
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(slots_used(h), 6U);
  EXPECT_EQ(h.placement(), before);
}

TEST(refresh_batches, a_layer_that_fits_goes_over_as_a_whole_though_another_does_not) {
  auto h = nodes_with(4, 4);
  auto some = from_folder({0, 1, 2});
  std::erase_if(*some.found, [](const auto& found) { return found.expert == expert_id{layer_id::of(1), 2}; });
  ASSERT_TRUE(h.command(some));
  EXPECT_THAT(watch(h, until_ended(h)),
              ElementsAre("1 1 1 | 1 1 1", "2 2 1 | 1 1 1", "2 2 2 | 1 1 1", "2 2 2 | 2 2 1"));
}

TEST(refresh_batches, one_free_slot_of_any_node_is_enough) {
  auto h = nodes_with(4, 3);
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  auto seen = watch(h, until_ended(h));
  EXPECT_EQ(newest(h).state, operation_state::done) << newest(h).reason;
  EXPECT_EQ(seen.size(), 7U) << "one expert at a time";
  EXPECT_EQ(seen.back(), "2 2 2 | 2 2 2");
  EXPECT_EQ(slots_used(h), 6U);
}

TEST(refresh_batches, without_a_free_slot_it_is_refused) {
  auto h = nodes_with(3, 3);
  auto answer = h.command(from_folder({0}));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, errc::conflict);
  EXPECT_THAT(why(answer), HasSubstr("expert 0/0 is loaded beside its replicas in use, which takes a free slot on each "
                                     "of 1 nodes; 0 nodes have one; add a node"));
}

TEST(refresh_batches, replicas_of_one_expert_need_slots_of_different_nodes) {
  core_harness h(two_layers(2));
  for (const char* name : {"a", "b", "c"}) h.add_expert_node(name, 5);
  h.add_router("r");
  h.converge();
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  auto seen = watch(h, until_ended(h), {"a", "b", "c"});
  EXPECT_EQ(newest(h).state, operation_state::done) << newest(h).reason;
  EXPECT_EQ(seen.back(), "2 2 2 | 2 2 2");
  for (const auto& expert : h.state().published->experts) EXPECT_EQ(expert.replicas.size(), 2U);
}

TEST(refresh_batches, cancelled_between_two_batches_it_goes_back_the_way_it_came) {
  auto h = nodes_with(4, 4);
  const auto before = h.placement();
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  watch(h, [&] { return served(h) == "2 2 2 | 2 2 1"; });
  ASSERT_TRUE(h.command(cancel_operation{"op-1", false}));
  EXPECT_THAT(watch(h, until_ended(h)),
              ElementsAre("2 2 2 | 2 2 1", "2 2 2 | 1 1 1", "2 1 1 | 1 1 1", "1 1 1 | 1 1 1"));
  EXPECT_EQ(newest(h).state, operation_state::cancelled);
  EXPECT_EQ(slots_used(h), 6U);
  EXPECT_EQ(h.placement(), before);
}

TEST(refresh_batches, a_restarted_coordinator_goes_on_with_the_next_batch) {
  auto h = nodes_with(4, 4);
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  watch(h, [&] { return served(h) == "2 2 1 | 1 1 1"; });
  auto again = restarted(h);
  again.pass(limits::restart_grace);
  auto seen = watch(again, until_ended(again));
  EXPECT_EQ(seen.front().substr(0, 5), "2 2 1");
  EXPECT_EQ(seen.back(), "2 2 2 | 2 2 2");
  EXPECT_EQ(newest(again).state, operation_state::done);
  EXPECT_EQ(slots_used(again), 6U);
}

TEST(refresh_batches, a_rollback_comes_back_in_batches_to_the_same_places) {
  auto h = nodes_with(4, 4);
  const auto before = *h.state().published;
  const auto places = h.placement();
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  watch(h, until_ended(h));
  auto answer = h.command(roll_back_placement{before.epoch, false});
  ASSERT_TRUE(answer) << why(answer);
  auto seen = watch(h, until_ended(h));
  EXPECT_EQ(newest(h).state, operation_state::done) << newest(h).reason;
  EXPECT_EQ(seen.back(), "1 1 1 | 1 1 1");
  EXPECT_GT(seen.size(), 3U) << "in batches";
  EXPECT_EQ(h.placement(), places);
}

// A migrate takes the last free slot between two batches: neither forward nor back, and it says so.
TEST(refresh_batches, a_slot_that_another_command_takes_is_waited_for_no_longer_than_anything_moves) {
  auto h = nodes_with(4, 3);
  auto refresh = from_folder({0, 1, 2});
  refresh.layer = layer_id::of(0);
  ASSERT_TRUE(h.command(refresh));
  watch(h, [&] { return served(h) == "2 1 1 | 1 1 1" && slots_used(h) == 6U; });
  ASSERT_TRUE(h.command(replicate_expert{{layer_id::of(1), 0}, 2, false}));
  watch(h, [&] { return h.state().operations.at(1).state != operation_state::running; });
  h.converge();
  const auto& ended = h.state().operations.at(1);
  if (ended.state == operation_state::done) GTEST_FAIL() << "the slot was to be taken";
  EXPECT_EQ(ended.state, operation_state::failed);
  EXPECT_THAT(ended.reason, HasSubstr("no node has a free slot for any of its next experts; it could not go back"));
  for (const auto& expert : h.state().experts) EXPECT_EQ(expert.version, expert.wish.version) << to_string(expert.id);
  EXPECT_EQ(h.state().sources.at({2}).state, operation_state::failed);
}

TEST(refresh_batches, slots_that_pinned_texts_hold_are_waited_for) {
  auto h = nodes_with(4, 4);
  h.pinned_to["r"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  watch(h, [&] { return served(h) == "2 2 1 | 1 1 1"; });
  h.converge();
  EXPECT_EQ(served(h), "2 2 1 | 1 1 1") << "the slots of the first batch hold the old version for a text";
  EXPECT_EQ(newest(h).state, operation_state::running);
  EXPECT_EQ(operations::look(h.state(), newest(h)).detail, "free slots for its next experts");
  h.pinned_to.clear();
  h.converge();
  EXPECT_EQ(served(h), "2 2 2 | 2 2 2");
}

}  // namespace
}  // namespace troupe::coordinator::testing
