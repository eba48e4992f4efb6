#include "coordinator/core/pair_window.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "coordinator/core/explanation.hpp"
#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

const layer_id layer = layer_id::of(0);
const time_point start{10h};

pair_counts some_counts(std::uint64_t rows) {
  return {10 * rows, {4 * rows, 5 * rows, rows}, {{0, 1, 2 * rows}, {0, 2, rows}}, 0};
}

// "1: 0.50, 2: 0.25"
std::string text(const companions& together) {
  std::string all;
  for (const auto& other : together.most)
    all += fmt::format("{}{}: {:.2f}", all.empty() ? "" : ", ", other.expert, other.share);
  return all;
}

TEST(pair_window, says_which_part_of_an_experts_rows_chose_another_one_too) {
  pair_window window;
  window.report({"r"}, {1}, layer, 1, some_counts(10), start);
  EXPECT_EQ(text(window.of({layer, 0}, start)), "1: 0.50, 2: 0.25");
  EXPECT_EQ(text(window.of({layer, 2}, start)), "0: 1.00");
  EXPECT_EQ(window.of({layer, 0}, start).rows, 40U);
  EXPECT_EQ(text(window.of({layer_id::of(1), 0}, start)), "");
  EXPECT_EQ(text(window.of({layer, 77}, start)), "");
}

TEST(pair_window, adds_up_routers_and_counts_what_is_repeated_once) {
  pair_window window;
  window.report({"r"}, {1}, layer, 1, some_counts(10), start);
  window.report({"r"}, {1}, layer, 1, some_counts(10), start);
  window.report({"s"}, {1}, layer, 1, {40, {40, 0, 0}, {}, 4}, start);
  auto together = window.of({layer, 0}, start);
  EXPECT_EQ(together.rows, 80U);
  EXPECT_EQ(text(together), "1: 0.25, 2: 0.12");
  EXPECT_DOUBLE_EQ(together.missed_share, 4.0 / 80);
  window.report({"r"}, {2}, layer, 1, some_counts(10), start);  // started anew
  EXPECT_EQ(window.of({layer, 0}, start).rows, 120U);
}

TEST(pair_window, forgets_what_is_older_than_a_minute) {
  pair_window window;
  window.report({"r"}, {1}, layer, 1, some_counts(10), start);
  window.report({"r"}, {1}, layer, 2, {10, {10, 10, 0}, {{0, 1, 10}}, 0}, start + 40s);
  EXPECT_EQ(window.of({layer, 0}, start + 40s).rows, 50U);
  EXPECT_EQ(text(window.of({layer, 0}, start + 70s)), "1: 1.00");
  EXPECT_EQ(window.of({layer, 0}, start + 200s).rows, 0U);
}

TEST(pair_window, names_a_few_companions_only) {
  pair_window window;
  pair_counts counts{100, std::vector<std::uint64_t>(100, 100), {}, 0};
  for (std::uint32_t other = 1; other < 100; ++other) counts.pairs.push_back({0, other, 100 - other});
  window.report({"r"}, {1}, layer, 1, counts, start);
  auto together = window.of({layer, 0}, start);
  ASSERT_EQ(together.most.size(), limits::companions_max);
  EXPECT_EQ(together.most.front().expert, 1U);
}

TEST(pair_window, the_coordinator_explains_them_and_believes_nothing_of_another_model) {
  core_harness h(settings_of(3));
  h.add_expert_node("a");
  h.add_router("r");
  h.converge();
  stats_report report{{"r"}, {1}, 0, 0, {}};
  report.pairs = {{layer, 1, some_counts(10)},
                  {layer, 2, {10, {10, 10, 10, 10}, {{0, 3, 10}}, 0}},  // four experts
                  {layer_id::of(5), 1, some_counts(10)}};
  h.step(report);
  auto told = explain(h.state(), *h.state().find({layer, 0}));
  EXPECT_EQ(text(told.together), "1: 0.50, 2: 0.25");
  EXPECT_NE(std::ranges::find(told.reasons, "its rows chose most often, too: 0/1 (50 %), 0/2 (25 %)"),
            told.reasons.end());
  EXPECT_EQ(h.state().pairs.of({layer_id::of(5), 0}, h.now).rows, 0U);
  report.node = {"a"};  // no router
  report.pairs = {{layer, 9, some_counts(10)}};
  h.step(report);
  EXPECT_EQ(h.state().pairs.of({layer, 0}, h.now).rows, 40U);
}

}  // namespace
}  // namespace troupe::coordinator::testing
