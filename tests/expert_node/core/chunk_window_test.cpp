#include "expert_node/core/chunk_window.hpp"

#include <random>

#include <gtest/gtest.h>

namespace troupe::expert {
namespace {

using std::chrono::seconds;

constexpr chunk_options options{.chunk_bytes = 10, .outstanding_max = 2, .timeout = seconds{5}};
constexpr time_point start{seconds{100}};

TEST(chunk_window, asks_for_a_few_chunks_and_goes_on_as_they_arrive) {
  chunk_window window{25, options};
  EXPECT_EQ(window.next(start), (chunk_range{0, 10}));
  EXPECT_EQ(window.next(start), (chunk_range{10, 10}));
  EXPECT_EQ(window.next(start), std::nullopt);
  EXPECT_TRUE(window.received({10, 10}));
  EXPECT_EQ(window.next(start), (chunk_range{20, 5}));
  EXPECT_TRUE(window.received({0, 10}));
  EXPECT_FALSE(window.complete());
  EXPECT_TRUE(window.received({20, 5}));
  EXPECT_TRUE(window.complete());
  EXPECT_EQ(window.next(start), std::nullopt);
}

TEST(chunk_window, w13_foreign_and_repeated_chunks_are_not_taken) {
  chunk_window window{25, options};
  EXPECT_FALSE(window.received({0, 10})) << "not asked for";
  ASSERT_TRUE(window.next(start));
  EXPECT_FALSE(window.received({0, 9}));
  EXPECT_FALSE(window.received({3, 10}));
  EXPECT_FALSE(window.received({~0ULL, 10}));
  EXPECT_TRUE(window.received({0, 10}));
  EXPECT_FALSE(window.received({0, 10}));
}

TEST(chunk_window, what_does_not_come_is_asked_for_again) {
  chunk_window window{20, options};
  ASSERT_TRUE(window.next(start));
  ASSERT_TRUE(window.next(start + seconds{1}));
  EXPECT_EQ(window.deadline(), start + seconds{5});
  EXPECT_EQ(window.expire(start + seconds{4}), 0U);
  EXPECT_EQ(window.expire(start + seconds{5}), 1U);
  EXPECT_EQ(window.next(start + seconds{5}), (chunk_range{0, 10}));
  EXPECT_EQ(window.deadline(), start + seconds{6});
}

TEST(chunk_window, a_new_source_goes_on_where_the_last_one_stopped) {
  chunk_window window{30, options};
  ASSERT_TRUE(window.next(start));
  ASSERT_TRUE(window.next(start));
  ASSERT_TRUE(window.received({0, 10}));
  window.restart();
  EXPECT_FALSE(window.received({10, 10})) << "late answer of the old source";
  EXPECT_EQ(window.next(start), (chunk_range{10, 10}));
  window.discard();
  EXPECT_EQ(window.next(start), (chunk_range{0, 10}));
  EXPECT_EQ(window.missing(), 3U);
}

// Goal: whatever is lost, late or repeated, the transfer ends with every byte once.
// Method: a transport that loses a third of the answers and repeats some.
TEST(chunk_window, completes_over_a_terrible_transport) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    std::mt19937 random{seed};
    chunk_window window{1 + random() % 500, options};
    auto now = start;
    std::uint64_t bytes = 0;
    for (int round = 0; round < 10'000 && !window.complete(); ++round) {
      auto asked = window.next(now);
      if (!asked) {
        now += seconds{1};
        window.expire(now);
        continue;
      }
      if (random() % 3 == 0) continue;
      if (window.received(*asked)) bytes += asked->bytes;
      if (random() % 3 == 0) {
        EXPECT_FALSE(window.received(*asked));
      }
    }
    ASSERT_TRUE(window.complete()) << "seed " << seed;
    std::uint64_t left = 0;
    for (auto again = window.next(now); again; again = window.next(now)) left += again->bytes;
    EXPECT_EQ(left, 0U);
    EXPECT_GT(bytes, 0U);
  }
}

}  // namespace
}  // namespace troupe::expert
