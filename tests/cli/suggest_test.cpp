#include "cli/suggest.hpp"

#include <gmock/gmock.h>

namespace troupe::cli {
namespace {

TEST(suggest, distance_counts_edits_and_swaps) {
  EXPECT_EQ(edit_distance("status", "status"), 0U);
  EXPECT_EQ(edit_distance("stauts", "status"), 1U);
  EXPECT_EQ(edit_distance("sttus", "status"), 1U);
  EXPECT_EQ(edit_distance("", "up"), 2U);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
}

TEST(suggest, finds_near_misses_nearest_first) {
  const std::vector<std::string> verbs{"up", "down", "status", "node", "expert"};
  EXPECT_THAT(near_misses("nod", verbs), testing::ElementsAre("node"));
  EXPECT_THAT(near_misses("exprt", verbs), testing::ElementsAre("expert"));
  EXPECT_THAT(near_misses("zzzzzz", verbs), testing::IsEmpty());
}

TEST(suggest, says_what_was_meant) {
  const std::vector<std::string> nodes{"expert-0", "expert-1", "router-0"};
  EXPECT_EQ(did_you_mean("expert0", nodes), "; did you mean expert-0 or expert-1?");
  EXPECT_EQ(did_you_mean("something-else", nodes), "");
}

}  // namespace
}  // namespace troupe::cli
