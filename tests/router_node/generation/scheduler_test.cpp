#include "router_node/core/generation/scheduler.hpp"

#include <algorithm>
#include <map>
#include <numeric>

#include <gtest/gtest.h>

#include "tests/router_node/generation/scheduler_world.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using namespace testing;

using ids = std::vector<std::uint64_t>;

TEST(scheduler, computes_a_prompt_in_pieces_and_then_token_by_token) {
  world w(roomy());
  w.add(1, text(100), 3);
  auto step = w.plan();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->kind, step_kind::prefill);
  EXPECT_EQ(step->sequences[0].first_position, 0U);
  EXPECT_EQ(step->sequences[0].tokens.size(), 64U);
  EXPECT_FALSE(step->sequences[0].samples);
  EXPECT_FALSE(w.plan()) << "a sequence is in one step at most";
  w.commit(*step);
  step = w.plan();
  EXPECT_EQ(step->sequences[0].first_position, 64U);
  EXPECT_EQ(step->sequences[0].tokens.size(), 36U);
  EXPECT_TRUE(step->sequences[0].samples);
  w.commit(*step);
  for (std::uint32_t i = 0; i < 2; ++i) {
    step = w.plan();
    EXPECT_EQ(step->kind, step_kind::decode);
    EXPECT_EQ(step->sequences[0].first_position, 100U + i);
    EXPECT_EQ(step->sequences[0].tokens.size(), 1U);
    w.commit(*step);
  }
  EXPECT_FALSE(w.plan());
  EXPECT_TRUE(w.is_over(1) && w.is_right(1));
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
  EXPECT_EQ(w.work.running(), 0U);
}

TEST(scheduler, one_step_of_each_kind_may_be_in_flight) {
  world w(roomy());
  w.add(1, text(10), 5);
  w.commit(*w.plan());
  w.add(2, text(10, 100), 5);
  const auto decode = w.plan();
  const auto prefill = w.plan();
  ASSERT_TRUE(decode && prefill);
  EXPECT_EQ(ids_of(*decode), ids{1});
  EXPECT_EQ(ids_of(*prefill), ids{2});
  EXPECT_EQ(w.work.steps_in_flight(), 2U);
  w.add(3, text(10, 200), 5);
  EXPECT_FALSE(w.plan());
  w.commit(*prefill);
  const auto next = w.plan();
  EXPECT_EQ(ids_of(*next), ids{3}) << "2 waits for the decode step that is in flight";
  w.commit(*decode);
  EXPECT_EQ(ids_of(*w.plan()), (ids{1, 2}));
}

// -- prefix cache -------------------------------------------------------------------------------------------------

TEST(scheduler, a_known_prefix_is_not_computed_again) {
  world w(roomy());
  w.add(1, text(100), 2);
  w.run();
  auto prompt = text(100);
  prompt[90] = 7;
  w.add(2, prompt, 2);
  auto step = w.plan();
  EXPECT_EQ(step->sequences[0].first_position, 80U) << "five full blocks are the same";
  EXPECT_EQ(step->sequences[0].cached_tokens, 80U);
  w.commit(*step);
  w.run();
  EXPECT_TRUE(w.is_right(2));
  EXPECT_EQ(w.work.counters().cached_tokens, 80U);
}

TEST(scheduler, what_another_model_computed_is_not_known_to_texts_that_begin_later) {
  world w(roomy());
  w.add(1, text(100), 60);
  for (int i = 0; i < 3; ++i) w.commit(*w.plan());  // has begun
  w.add(2, text(100), 2);                           // in line, without a block
  w.work.forget_prefixes();
  w.run();
  EXPECT_EQ(w.work.counters().cached_tokens, 0U);
  w.add(3, text(100), 2);
  w.run();
  EXPECT_EQ(w.work.counters().cached_tokens, 96U) << "of the second text, not of the first";
  for (auto id : {1U, 2U, 3U}) EXPECT_TRUE(w.is_right(id));
}

TEST(scheduler, the_last_token_is_computed_even_if_everything_is_known) {
  world w(roomy());
  w.add(1, text(64), 1);
  w.run();
  w.add(2, text(64), 1);
  EXPECT_EQ(w.plan()->sequences[0].first_position, 48U);
  w.add(3, text(65), 1);
  const auto step = w.plan();
  EXPECT_EQ(step->sequences[0].first_position, 64U);
  EXPECT_EQ(step->kind, step_kind::decode) << "one token is left, as when decoding";
}

TEST(scheduler, answers_are_known_too) {
  world w(roomy());
  w.add(1, text(20), 45);
  w.run();
  w.add(2, w.texts[1].tokens, 1);  // 65 tokens, of which the last was never computed
  EXPECT_EQ(w.plan()->sequences[0].first_position, 64U);
}

TEST(scheduler, all_rows_are_computed_when_they_are_wanted) {
  world w(roomy());
  w.add(1, text(64), 1);
  w.run();
  ASSERT_TRUE(w.try_add(2, text(64), 3, "someone", true));
  auto step = w.plan();
  EXPECT_EQ(step->sequences[0].first_position, 0U);
  EXPECT_TRUE(step->sequences[0].wants_all_rows);
  w.commit(*step);
  step = w.plan();
  EXPECT_FALSE(step->sequences[0].wants_all_rows) << "after the prompt they are over";
  w.commit(*step);
  EXPECT_EQ(w.work.blocks().in_use(), 5U);
}

TEST(scheduler, equal_prompts_at_once_are_computed_once) {
  world w(roomy());
  for (std::uint64_t id = 1; id <= 4; ++id) w.add(id, text(1000), 3);
  w.run();
  for (std::uint64_t id = 1; id <= 4; ++id) EXPECT_TRUE(w.is_over(id) && w.is_right(id));
  EXPECT_EQ(w.work.counters().computed_tokens, 1000U + 3 * (1000 - 992) + 4 * 2);
  EXPECT_EQ(w.work.counters().cached_tokens, 3 * 992U);
}

TEST(scheduler, approximations_are_not_known_to_others) {
  world w(roomy());
  w.add(1, text(64), 40);
  w.commit(*w.plan(), false);
  w.run();
  w.add(2, text(64), 1);
  EXPECT_EQ(w.plan()->sequences[0].first_position, 0U);
}

// -- fairness -----------------------------------------------------------------------------------------------------

TEST(scheduler, the_oldest_prompt_has_at_least_half_and_a_short_one_moves_on_beside_it) {
  world w(roomy());
  w.add(1, text(5000), 1);
  w.add(2, text(16, 7000), 1);
  auto step = w.plan();
  EXPECT_EQ(rows_of(*step, 1), 56U);
  EXPECT_EQ(rows_of(*step, 2), 8U);
  w.commit(*step);
  step = w.plan();
  EXPECT_EQ(rows_of(*step, 2), 8U);
  w.commit(*step);
  EXPECT_TRUE(w.is_over(2)) << "after two steps of eighty";
}

TEST(scheduler, every_prompt_under_way_moves_on_in_turns) {
  world w({.kv_blocks = 10'000, .prefill_step_tokens = 64, .prefill_turn_tokens = 8});  // 4 pieces of 8 in turns
  for (std::uint64_t id = 1; id <= 20; ++id) w.add(id, text(5000, static_cast<token_number>(id * 10'000)), 1, "c");
  std::map<std::uint64_t, int> last_served;
  for (int n = 1; n <= 60; ++n) {
    const auto step = w.plan();
    ASSERT_TRUE(step);
    std::uint32_t rows = 0;
    for (const auto& part : step->sequences) {
      last_served[part.id.value] = n;
      rows += static_cast<std::uint32_t>(part.tokens.size());
    }
    EXPECT_EQ(rows, 64U);
    EXPECT_GE(rows_of(*step, 1), 32U);
    for (std::uint64_t id = 1; n >= 5 && id <= 20; ++id) EXPECT_LE(n - last_served[id], 5) << "sequence " << id;
    w.commit(*step);
  }
}

// faults.md O3
TEST(scheduler, a_client_has_so_many_places_and_others_are_served_meanwhile) {
  auto options = roomy();
  options.running_max = 4;
  options.running_per_client_max = 2;
  world w(options);
  for (std::uint64_t id = 1; id <= 5; ++id) w.add(id, text(4, static_cast<token_number>(id * 100)), 50, "flood");
  w.add(6, text(4, 900), 2, "quiet");
  w.commit(*w.plan());
  EXPECT_EQ(ids_of(*w.plan()), (ids{1, 6, 2})) << "clients take turns";
  EXPECT_EQ(w.work.running(), 3U);
  EXPECT_EQ(w.work.waiting(), 3U);
}

// -- admission ----------------------------------------------------------------------------------------------------

TEST(scheduler, refuses_what_can_never_fit_with_both_numbers) {
  world w({.kv_blocks = 4});
  EXPECT_EQ(w.work.capacity_tokens(), 64U);
  const auto added = w.try_add(1, text(65), 1);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code, errc::invalid_request);
  EXPECT_NE(added.error().message.find("65"), std::string::npos);
  EXPECT_NE(added.error().message.find("64"), std::string::npos);
  w.add(2, text(64), 1);
  w.run();
  EXPECT_TRUE(w.is_over(2)) << "as much as fits does";
}

TEST(scheduler, refuses_when_too_much_waits_and_keeps_nothing_of_it) {
  auto options = roomy();
  options.running_max = 1;
  options.waiting_max = 4;
  options.waiting_per_client_max = 3;
  options.tokens_waiting_per_client_max = 100;
  world w(options);
  for (std::uint64_t id = 1; id <= 3; ++id) w.add(id, text(2), 1, "a");
  const auto of_client = w.try_add(4, text(2), 1, "a");
  ASSERT_FALSE(of_client);
  EXPECT_EQ(of_client.error().code, errc::overloaded);
  w.add(5, text(100), 1, "b");
  const auto of_all = w.try_add(6, text(2), 1, "c");
  ASSERT_FALSE(of_all);
  EXPECT_EQ(of_all.error().code, errc::overloaded);
  EXPECT_EQ(w.work.waiting(), 4U);
  EXPECT_EQ(w.work.counters().refused, 2U);
  EXPECT_GE(w.work.retry_after("a"), limits::generation_retry_min);
  w.run();
  w.add(7, text(100), 1, "b");
  EXPECT_FALSE(w.try_add(8, text(1), 1, "b")) << "100 tokens of b wait";
  w.add(9, text(1), 1, "a");
}

TEST(scheduler, the_pause_for_refused_clients_follows_the_pace) {
  auto options = roomy();
  options.running_max = 1;
  options.waiting_max = 100;
  options.waiting_per_client_max = 100;
  world w(options);
  for (std::uint64_t id = 1; id <= 100; ++id) w.add(id, text(2), 1);
  EXPECT_EQ(w.work.retry_after("other"), limits::generation_retry_min) << "nothing is known of the pace";
  for (std::uint64_t id = 101; id <= 200; ++id) {  // one every half second
    w.now += 500ms;
    w.run(1);
    w.add(id, text(2), 1);
  }
  EXPECT_GE(w.work.retry_after("other"), 20s);
  EXPECT_LE(w.work.retry_after("other"), 26s);
}

TEST(scheduler, expired_before_any_work) {  // faults.md O10
  auto options = roomy();
  options.running_max = 1;
  world w(options);
  EXPECT_EQ(w.try_add(1, text(2), 1, "a", false, 0s).error().code, errc::timeout);
  w.add(2, text(2), 100);
  ASSERT_TRUE(w.try_add(3, text(2), 1, "a", false, 5s));
  w.commit(*w.plan());
  EXPECT_EQ(w.work.next_wakeup(w.now), w.now + 5s);
  w.now += 5s;
  w.commit(*w.plan());
  const auto ended = w.work.take_ended();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].id.value, 3U);
  EXPECT_EQ(ended[0].reason.code, errc::timeout);
  EXPECT_EQ(w.work.counters().expired, 2U);
  EXPECT_TRUE(w.work.take_ended().empty());
}

TEST(scheduler, a_deadline_ends_running_sequences_too) {
  world w(roomy());
  ASSERT_TRUE(w.try_add(1, text(20), 100, "a", false, 5s));
  w.commit(*w.plan());
  const auto step = w.plan();
  w.now += 6s;
  EXPECT_FALSE(w.plan());
  EXPECT_TRUE(w.work.take_ended().empty()) << "it is in a step";
  w.commit(*step);
  EXPECT_FALSE(w.plan());
  EXPECT_EQ(w.work.take_ended().size(), 1U);
  EXPECT_EQ(w.work.counters().timed_out, 1U);
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
}

// -- memory -------------------------------------------------------------------------------------------------------

TEST(scheduler, the_youngest_gives_up_its_blocks_and_gives_the_same_text_later) {
  world w({.kv_blocks = 8});
  w.add(1, text(30), 60);
  w.add(2, text(30, 100), 60);
  w.run(2);
  EXPECT_EQ(w.work.running(), 2U);
  while (!w.is_over(1)) w.run(1);
  EXPECT_FALSE(w.is_over(2));
  w.run();
  EXPECT_GE(w.work.counters().preemptions, 1U);
  EXPECT_TRUE(w.is_right(1) && w.is_over(2) && w.is_right(2));
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
}

TEST(scheduler, the_oldest_gets_blocks_before_younger_ones_go_on) {
  world w({.kv_blocks = 8, .prefill_step_tokens = 16, .prefill_turn_tokens = 8});
  w.add(1, text(90), 1);  // 6 blocks in the end
  w.add(2, text(14, 100), 200);
  while (w.texts[2].tokens.size() == 14) w.run(1);
  auto decode = w.plan();
  ASSERT_EQ(decode->kind, step_kind::decode);
  const auto prefill = w.plan();
  ASSERT_EQ(ids_of(*prefill), ids{1});
  while (w.work.blocks().free() > 0) {  // the younger one grows while the oldest waits for its step
    w.commit(*decode);
    decode = w.plan();
    ASSERT_EQ(ids_of(*decode), ids{2});
  }
  w.commit(*prefill);
  while (const auto rest = w.plan()) {  // what its last block has room for
    ASSERT_EQ(ids_of(*rest), ids{1});
    w.commit(*rest);
  }
  EXPECT_EQ(w.work.counters().preemptions, 0U) << "the younger one's blocks are in a step";
  w.commit(*decode);
  EXPECT_EQ(ids_of(*w.plan()), ids{1});
  EXPECT_EQ(w.work.counters().preemptions, 1U);
}

TEST(scheduler, a_younger_one_waits_rather_than_take_from_an_older) {
  world w({.kv_blocks = 8, .prefill_step_tokens = 16, .prefill_turn_tokens = 8});
  w.add(1, text(90), 1);
  w.add(2, text(14, 100), 200);
  while (w.texts[2].tokens.size() == 14) w.run(1);
  auto decode = w.plan();
  const auto prefill = w.plan();
  ASSERT_EQ(ids_of(*prefill), ids{1});
  while (decode) {  // until the younger one has all that is free
    w.commit(*decode);
    decode = w.plan();
  }
  EXPECT_EQ(w.work.blocks().free(), 0U);
  w.commit(*prefill);
  const auto step = w.plan();
  ASSERT_EQ(ids_of(*step), ids{1});
  EXPECT_GT(step->sequences[0].first_position, 16U) << "it has not lost its blocks";
}

TEST(scheduler, nobody_is_admitted_who_does_not_fit_beside_the_others) {
  world w({.kv_blocks = 8, .prefill_step_tokens = 16, .prefill_turn_tokens = 8});
  w.add(1, text(90), 1);       // 6 of 8 blocks, two of them after the first steps
  w.add(2, text(40, 200), 1);  // 3 blocks
  w.add(3, text(2, 300), 1);   // would fit, but does not overtake
  w.commit(*w.plan());
  EXPECT_EQ(w.work.running(), 1U);
  w.run();
  EXPECT_EQ(w.work.counters().preemptions, 0U);
  EXPECT_TRUE(w.is_over(1) && w.is_over(2) && w.is_over(3));
}

TEST(scheduler, a_text_that_fills_the_whole_memory_ends) {
  world w({.kv_blocks = 2});
  w.add(1, text(30), 100);
  w.run();
  const auto ended = w.work.take_ended();
  ASSERT_EQ(ended.size(), 1U);
  EXPECT_EQ(ended[0].reason.code, errc::out_of_memory);
  EXPECT_EQ(w.texts[1].tokens.size(), 33U) << "the last token needs no memory";
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
}

TEST(scheduler, blocks_of_a_cancelled_sequence_live_until_its_step_is_committed) {
  world w(roomy());
  w.add(1, text(40), 5);
  const auto step = w.plan();
  EXPECT_TRUE(w.work.cancel({1}));
  EXPECT_FALSE(w.work.cancel({1}));
  EXPECT_EQ(w.work.blocks().in_use(), 3U);
  w.commit(*step);
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
  EXPECT_FALSE(w.plan());
  EXPECT_FALSE(w.work.cancel({1}));
  EXPECT_TRUE(w.work.take_ended().empty()) << "the caller knows";
}

TEST(scheduler, a_failed_part_is_over) {
  world w(roomy());
  w.add(1, text(40), 5);
  w.commit_as(*w.plan(), rows_failed{});
  EXPECT_EQ(w.work.blocks().in_use(), 0U);
  EXPECT_EQ(w.work.running(), 0U);
  w.add(2, text(40), 1);
  EXPECT_EQ(w.plan()->sequences[0].first_position, 0U) << "nothing of it became known";
}

// -- stalls -------------------------------------------------------------------------------------------------------

TEST(scheduler, a_stalled_sequence_is_tried_again_while_others_go_on) {
  world w(roomy());
  w.add(1, text(40), 5);
  w.add(2, text(8, 100), 5);
  auto step = w.plan();
  ASSERT_EQ(ids_of(*step), (ids{1, 2}));
  w.texts[2].tokens.push_back(fake_trunk::next_token(w.texts[2].tokens));
  ASSERT_EQ(w.trunk.compute(step->sequences[1], w.texts[2].tokens, true), "");
  w.work.commit(step->id, std::vector<step_outcome>{rows_stalled{w.now + 1s}, token_sampled{w.texts[2].tokens.back()}},
                w.now);
  EXPECT_EQ(w.work.stalled(), 1U);
  EXPECT_EQ(w.work.blocks().known(), 0U) << "its rows do not count";
  w.run();
  EXPECT_TRUE(w.is_over(2) && w.is_right(2));
  EXPECT_EQ(w.work.blocks().in_use(), 3U) << "it keeps its blocks";
  EXPECT_EQ(w.work.next_wakeup(w.now), w.now + 1s);
  w.now += 1s;
  step = w.plan();
  ASSERT_TRUE(step);
  EXPECT_EQ(step->sequences[0].first_position, 0U);
  w.commit(*step);
  w.run();
  EXPECT_TRUE(w.is_over(1) && w.is_right(1));
}

TEST(scheduler, a_stalled_sequence_gives_its_blocks_to_one_that_needs_them) {
  world w({.kv_blocks = 8});
  w.add(1, text(60), 20);
  w.commit(*w.plan());
  w.commit_as(*w.plan(), rows_stalled{w.now + 100s});
  w.add(2, text(20, 100), 90);
  w.run();
  EXPECT_TRUE(w.is_over(2) && w.is_right(2));
  EXPECT_GE(w.work.counters().preemptions, 1U);
  w.now += 100s;
  w.run();
  EXPECT_TRUE(w.is_over(1) && w.is_right(1));
}

TEST(scheduler, who_has_stalled_for_long_gives_its_place_to_who_waits) {
  auto options = roomy();
  options.running_max = 1;
  world w(options);
  w.add(1, text(4), 5);
  w.commit_as(*w.plan(), rows_stalled{w.now + 1s});
  w.add(2, text(4, 100), 2);
  EXPECT_FALSE(w.plan()) << "a short outage costs nothing";
  w.now += 1s;
  w.commit_as(*w.plan(), rows_stalled{w.now + 10s});
  EXPECT_EQ(w.work.next_wakeup(w.now), w.now - 1s + limits::stall_patience);
  w.now += limits::stall_patience - 1s;
  EXPECT_EQ(ids_of(*w.plan()), ids{2});
}

TEST(scheduler, the_first_stalled_sequences_wait_their_time_when_preempted) {
  auto options = roomy();
  options.running_max = 1;
  world w(options);
  w.add(1, text(4), 5);
  w.commit_as(*w.plan(), rows_stalled{w.now + 30s});
  w.add(2, text(4, 100), 2);
  w.now += limits::stall_patience;
  w.run();
  EXPECT_TRUE(w.is_over(2));
  EXPECT_FALSE(w.plan()) << "the expert is not expected before";
  ASSERT_TRUE(w.work.next_wakeup(w.now));
  w.now = *w.work.next_wakeup(w.now);
  w.run();
  EXPECT_TRUE(w.is_over(1) && w.is_right(1));
}

}  // namespace
}  // namespace troupe::router
