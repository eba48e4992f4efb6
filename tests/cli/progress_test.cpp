#include "cli/progress.hpp"

#include <gtest/gtest.h>

#include <sstream>

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;

const progress::time_point start{};

TEST(progress, plain_lines_now_and_then) {
  std::ostringstream out;
  progress shown{out, "loading", false, start};
  shown.update(1, 10, start + 1s);
  shown.update(2, 10, start + 2s);  // too early for another line
  shown.update(5, 10, start + 12s);
  shown.update(10, 10, start + 13s);  // the end is always said
  shown.update(10, 10, start + 14s);
  EXPECT_EQ(out.str(), "loading: 1 of 10\nloading: 5 of 10\nloading: 10 of 10\n");
}

TEST(progress, bar_on_a_terminal_with_rate_and_rest) {
  std::ostringstream out;
  {
    progress shown{out, "loading", true, start};
    shown.update(5, 10, start + 1s);
  }
  EXPECT_EQ(out.str(), "\rloading [###############               ] 5/10  5/s  1 s left\033[K\n");
}

TEST(progress, nothing_to_do_shows_nothing) {
  std::ostringstream out;
  { progress{out, "loading", true, start}.update(0, 0, start); }
  EXPECT_EQ(out.str(), "");
}

}  // namespace
}  // namespace troupe::cli
