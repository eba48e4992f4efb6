#include "router_node/core/replay_cache.hpp"

#include <string>

#include <gtest/gtest.h>

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using cache = replay_cache<std::string>;
using state = cache::state;

class replaying : public ::testing::Test {
 protected:
  void answer(std::uint64_t number, std::size_t bytes) {
    (void)cache_.begin({"c", number}, now_);
    cache_.finish({"c", number}, std::make_shared<const std::string>(std::to_string(number)), bytes, now_);
  }
  state seen(std::uint64_t number) {
    const auto is = cache_.begin({"c", number}, now_).is;
    if (is == state::is_new) cache_.forget({"c", number});
    return is;
  }
  cache::time_point now_{std::chrono::hours(1)};
  cache cache_{100, 30s};
};

TEST_F(replaying, w12_in_progress_then_the_same_answer) {
  EXPECT_EQ(cache_.begin({"c", 1}, now_).is, state::is_new);
  EXPECT_EQ(cache_.begin({"c", 1}, now_).is, state::in_progress);
  EXPECT_EQ(cache_.begin({"d", 1}, now_).is, state::is_new) << "another client's number";
  answer(1, 10);
  const auto found = cache_.begin({"c", 1}, now_);
  EXPECT_EQ(found.is, state::answered);
  EXPECT_EQ(*found.answer, "1");
}

TEST_F(replaying, forgets_by_age) {
  answer(1, 10);
  now_ += 29s;
  EXPECT_EQ(seen(1), state::answered);
  now_ += 1s;
  EXPECT_EQ(seen(1), state::is_new);
  EXPECT_EQ(cache_.bytes(), 0U);
  EXPECT_EQ(cache_.size(), 0U);
}

TEST_F(replaying, forgets_the_oldest_when_full) {
  answer(1, 60);
  answer(2, 30);
  answer(3, 20);
  EXPECT_EQ(seen(1), state::is_new);
  EXPECT_EQ(seen(2), state::answered);
  EXPECT_EQ(seen(3), state::answered);
  EXPECT_EQ(cache_.bytes(), 50U);
  answer(4, 101);
  EXPECT_EQ(seen(4), state::is_new) << "larger than the cache";
  EXPECT_EQ(seen(2), state::answered);
}

TEST_F(replaying, a_forgotten_request_may_run_again) {
  (void)cache_.begin({"c", 1}, now_);
  cache_.forget({"c", 1});
  EXPECT_EQ(cache_.begin({"c", 1}, now_).is, state::is_new);
}

}  // namespace
}  // namespace troupe::router
