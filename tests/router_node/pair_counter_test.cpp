#include "router_node/core/pair_counter.hpp"

#include <gtest/gtest.h>

#include <random>

namespace troupe::router {
namespace {

void count(pair_counter& counter, std::vector<std::int32_t> ids, std::uint32_t top_k) { counter.count(ids, top_k); }

TEST(pair_counter, counts_each_pair_of_a_row_once) {
  pair_counter counter(5, 3);
  count(counter, {4, 0, 2, 0, 2, 1}, 3);  // two rows
  count(counter, {3, -1, -1}, 3);         // the others were dropped
  count(counter, {1, 3, 3}, 3);           // a client's own choice may say an expert twice
  auto taken = counter.take();
  EXPECT_EQ(taken.rows, 4U);
  EXPECT_EQ(taken.expert_rows, (std::vector<std::uint64_t>{2, 2, 2, 2, 1}));
  EXPECT_EQ(taken.pairs, (std::vector<expert_pair>{{0, 2, 2}, {0, 1, 1}, {0, 4, 1}, {1, 2, 1}, {1, 3, 1}, {2, 4, 1}}));
  EXPECT_EQ(taken.missed_max, 0U);
}

TEST(pair_counter, begins_anew_when_it_was_asked) {
  pair_counter counter(4, 2);
  count(counter, {0, 1}, 2);
  EXPECT_EQ(counter.take().rows, 1U);
  EXPECT_EQ(counter.take(), pair_counts{});
  count(counter, {2, 1}, 2);
  EXPECT_EQ(counter.take(), (pair_counts{1, {0, 1, 1, 0}, {{1, 2, 1}}, 0}));
}

TEST(pair_counter, says_what_the_pairs_that_it_leaves_out_have_at_most) {
  pair_counter counter(256, 8);
  std::mt19937 random(7);
  std::vector<std::int32_t> ids(8);
  for (int row = 0; row < 2000; ++row) {
    for (auto& id : ids) id = static_cast<std::int32_t>(random() % 256);
    count(counter, ids, 8);
  }
  for (int row = 0; row < 500; ++row) count(counter, {3, 200, -1, -1, -1, -1, -1, -1}, 8);
  auto taken = counter.take(10);
  ASSERT_LE(taken.pairs.size(), 10U);
  EXPECT_EQ(taken.pairs.front().first, 3U);
  EXPECT_EQ(taken.pairs.front().second, 200U);
  EXPECT_GE(taken.pairs.front().rows, 500U);
  EXPECT_GT(taken.missed_max, 0U);
  EXPECT_LT(taken.missed_max, taken.pairs.back().rows);
}

TEST(pair_counter, counts_nothing_where_there_are_no_pairs_or_too_many) {
  for (auto [experts, top_k] : {std::pair{8U, 1U}, {1U, 1U}, {limits::pair_experts_max + 1, 2U}}) {
    pair_counter counter(experts, top_k);
    count(counter, {0, 0}, top_k);
    EXPECT_EQ(counter.take(), pair_counts{}) << experts;
  }
}

}  // namespace
}  // namespace troupe::router
