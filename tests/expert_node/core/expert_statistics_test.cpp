#include "expert_node/core/expert_statistics.hpp"

#include <gtest/gtest.h>

#include "expert_node/core/term_fence.hpp"

namespace troupe::expert {
namespace {

constexpr expert_id first{layer_id::of(1), 5};
constexpr expert_id second{layer_id::of(1), 2};

TEST(expert_statistics, reports_totals_of_experts_that_changed) {
  expert_statistics statistics;
  statistics.add(first, {10, 1, 0.5, 3.0});
  statistics.add(second, {1, 1, 0.25, 1.0});
  auto changed = statistics.take_changed();
  ASSERT_EQ(changed.size(), 2U);
  EXPECT_EQ(changed[0].expert, second) << "ordered by expert";
  EXPECT_TRUE(statistics.take_changed().empty());
  statistics.add(first, {5, 2, 0.5, 1.0});
  changed = statistics.take_changed();
  ASSERT_EQ(changed.size(), 1U);
  EXPECT_EQ(changed[0].totals.rows, 15U);
  EXPECT_EQ(changed[0].totals.calls, 3U);
  EXPECT_DOUBLE_EQ(changed[0].totals.seconds, 1.0);
  EXPECT_DOUBLE_EQ(changed[0].totals.weighted_norm, 4.0);
  EXPECT_EQ(statistics.all().size(), 2U);
}

TEST(term_fence, refuses_terms_older_than_the_newest_seen) {
  term_fence fence;
  EXPECT_TRUE(fence.admit({3}));
  EXPECT_FALSE(fence.admit({2}));
  EXPECT_TRUE(fence.admit({3}));
  EXPECT_TRUE(fence.admit({4}));
  EXPECT_EQ(fence.newest(), term_number{4});
}

}  // namespace
}  // namespace troupe::expert
