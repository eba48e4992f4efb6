#include "router_node/core/latency_history.hpp"

#include <gtest/gtest.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;

TEST(latency_history, waits_a_default_while_nothing_is_known) {
  EXPECT_EQ(latency_history{}.attempt_timeout(1), limits::attempt_timeout_default);
}

TEST(latency_history, four_times_the_slowest_within_bounds) {
  latency_history history;
  history.record(64, 1ms);
  EXPECT_EQ(history.attempt_timeout(64), limits::attempt_timeout_floor);
  history.record(60, 200ms);
  history.record(64, 10ms);
  EXPECT_EQ(history.slowest(64), 200ms);
  EXPECT_EQ(history.attempt_timeout(50), 800ms);
}

TEST(latency_history, forgets_what_is_64_calls_old) {
  latency_history history;
  history.record(1, 5s);
  for (int i = 0; i < 64; ++i) history.record(1, 1ms);
  EXPECT_EQ(history.slowest(1), 1ms);
}

TEST(latency_history, derives_an_unknown_size_from_the_nearest) {
  latency_history history;
  history.record(16, 100ms);
  EXPECT_EQ(history.slowest(64), 400ms);
  EXPECT_EQ(history.slowest(2), 100ms);
  EXPECT_EQ(history.slowest(1'000'000), 100ms * 512);
}

}  // namespace
}  // namespace troupe::router
