// Other expert versions come to be served while sequences are under way.
#include "tests/router_node/generation/scheduler_world.hpp"

namespace troupe::router {
namespace {

using namespace testing;

std::uint64_t model_of(const step_plan& step, std::uint64_t id) {
  for (const auto& part : step.sequences) {
    if (part.id.value == id) return part.model.value;
  }
  return ~0ULL;
}

scheduler_options pinned(scheduler_options options) {
  options.pins = true;
  return options;
}

TEST(scheduler_models, a_pinned_sequence_goes_on_with_its_model_and_shares_its_blocks_with_that_one_only) {
  world w(pinned(roomy()));
  w.add(1, text(100), 60);
  w.commit(*w.plan());
  w.add(2, text(100), 60);
  w.commit(*w.plan());  // both have begun
  w.add(3, text(100), 2);
  w.work.change_model({5});
  const auto step = w.plan();
  EXPECT_EQ(model_of(*step, 1), 0U);
  w.commit(*step);
  EXPECT_EQ(w.work.oldest_model().value, 0U);
  EXPECT_EQ(w.work.behind(), 2U);
  const auto known = w.work.counters().cached_tokens;
  EXPECT_GE(known, 64U) << "the second found what the first had computed";
  auto next = w.plan();
  for (; next && model_of(*next, 3) == ~0ULL; next = w.plan()) w.commit(*next);
  ASSERT_TRUE(next);
  EXPECT_EQ(model_of(*next, 3), 5U);
  EXPECT_EQ(next->sequences.back().first_position, 0U) << "nothing of the older model is known to it";
  w.commit(*next);
  w.run();
  EXPECT_EQ(w.work.oldest_model().value, 5U);
  EXPECT_EQ(w.work.behind(), 0U);
  for (auto id : {1U, 2U, 3U}) EXPECT_TRUE(w.is_over(id) && w.is_right(id));
}

TEST(scheduler_models, without_pins_everybody_goes_on_with_the_newest_model) {
  world w(roomy());
  w.add(1, text(100), 60);
  w.commit(*w.plan());
  w.work.change_model({5});
  EXPECT_EQ(model_of(*w.plan(), 1), 5U);
  EXPECT_EQ(w.work.behind(), 0U);
}

TEST(scheduler_models, a_preempted_pinned_sequence_begins_anew_with_its_own_model) {
  world w(pinned({.kv_blocks = 8}));
  w.add(1, text(30), 60);
  w.add(2, text(30, 100), 60);
  w.run(2);
  EXPECT_EQ(w.work.running(), 2U);
  w.work.change_model({5});
  while (!w.is_over(1)) w.run(1);
  ASSERT_GE(w.work.counters().preemptions, 1U);
  EXPECT_EQ(w.work.oldest_model().value, 0U) << "of the one that was preempted";
  w.run();
  EXPECT_TRUE(w.is_right(1) && w.is_over(2) && w.is_right(2));
  EXPECT_EQ(w.work.oldest_model().value, 5U);
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
}

TEST(scheduler_models, an_unpinned_sequence_takes_the_newest_model_and_tells_nobody_what_it_computes) {
  world w(pinned(roomy()));
  w.add(1, text(20), 60);
  w.commit(*w.plan());
  w.work.change_model({5});
  w.work.unpin({1});
  w.work.unpin({1});  // nothing more to do
  EXPECT_EQ(w.work.counters().unpinned, 1U);
  EXPECT_EQ(w.work.oldest_model().value, 5U);
  const auto known = w.work.blocks().known();
  for (token_number token = 0; token < 40; ++token) {
    const auto step = w.plan();
    EXPECT_EQ(model_of(*step, 1), 5U);
    w.commit_as(*step, token_sampled{token, false, true});
  }
  EXPECT_EQ(w.work.blocks().known(), known) << "its blocks are of two models";
}

}  // namespace
}  // namespace troupe::router
