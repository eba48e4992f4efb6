#include "router_node/core/generation/version_history.hpp"

#include <gtest/gtest.h>

namespace troupe::router {
namespace {

constexpr auto first = layer_id::of(0), second = layer_id::of(1);

TEST(version_history, says_how_often_a_layer_went_over_since_a_model_and_until_when_that_was_served) {
  version_history history;
  EXPECT_TRUE(history.is_empty());
  EXPECT_EQ(history.last_map_of({0}).value, 0U);
  history.add({{5}, {7}, {first}});  // map 6 was never seen
  history.add({{9}, {10}, {first, second}});
  EXPECT_EQ(history.newest().value, 10U);
  EXPECT_EQ(history.changes_since({0}, first), 2U);
  EXPECT_EQ(history.changes_since({0}, second), 1U);
  EXPECT_EQ(history.changes_since({7}, first), 1U);
  EXPECT_EQ(history.changes_since({10}, first), 0U);
  EXPECT_EQ(history.last_map_of({0}).value, 5U);
  EXPECT_EQ(history.last_map_of({7}).value, 9U);
  EXPECT_EQ(history.last_map_of({10}).value, 10U);
}

TEST(version_history, forgets_what_nobody_goes_by) {
  version_history history;
  history.add({{1}, {2}, {first}});
  history.add({{2}, {3}, {first}});
  history.forget_before({2});
  EXPECT_FALSE(history.is_empty());
  EXPECT_EQ(history.changes_since({2}, first), 1U);
  EXPECT_EQ(history.last_map_of({2}).value, 2U);
  history.forget_before({3});
  EXPECT_TRUE(history.is_empty());
  EXPECT_EQ(history.newest().value, 3U);
}

}  // namespace
}  // namespace troupe::router
