#include "expert_node/core/live_rows.hpp"

#include <gtest/gtest.h>

#include <set>

#include "common/limits.hpp"

namespace troupe::expert {
namespace {

constexpr expert_id first{layer_id::of(0), 1};
constexpr expert_id second{layer_id::of(0), 2};
const time_point begin{std::chrono::hours{1}};

std::vector<std::byte> row(std::size_t number, std::size_t bytes = 4) {
  return std::vector<std::byte>(bytes, static_cast<std::byte>(number));
}

std::multiset<int> kept(const live_rows& rows, const expert_id& expert, std::size_t bytes = 4) {
  std::multiset<int> numbers;
  const auto all = rows.of(expert);
  for (std::size_t at = 0; at < all.size(); at += bytes) numbers.insert(static_cast<int>(all[at]));
  return numbers;
}

TEST(live_rows, the_newest_ones_are_kept_of_each_expert) {
  live_rows rows;
  for (std::size_t n = 0; n < limits::live_rows_max + 3; ++n) rows.keep(first, row(n), begin);
  rows.keep(second, row(99), begin);
  std::multiset<int> newest;
  for (std::size_t n = 3; n < limits::live_rows_max + 3; ++n) newest.insert(static_cast<int>(n));
  EXPECT_EQ(kept(rows, first), newest);
  EXPECT_EQ(kept(rows, second), std::multiset<int>{99});
  rows.forget(first);
  EXPECT_TRUE(rows.of(first).empty());
  EXPECT_EQ(kept(rows, second), std::multiset<int>{99});
}

TEST(live_rows, another_one_is_wanted_after_a_while) {
  live_rows rows;
  EXPECT_TRUE(rows.wants(first, begin));
  rows.keep(first, row(1), begin);
  EXPECT_FALSE(rows.wants(first, begin + limits::live_row_interval / 2));
  EXPECT_TRUE(rows.wants(first, begin + limits::live_row_interval));
  EXPECT_TRUE(rows.wants(second, begin));
}

TEST(live_rows, all_together_are_bounded) {
  live_rows rows;
  constexpr std::size_t large = limits::live_rows_bytes_max / 4;
  for (std::uint32_t e = 0; e < 6; ++e) rows.keep({layer_id::of(0), e}, row(e, large), begin);
  for (std::uint32_t e = 0; e < 6; ++e) EXPECT_EQ(rows.of({layer_id::of(0), e}).empty(), e >= 4) << e;
  rows.forget({layer_id::of(0), 0});
  rows.keep({layer_id::of(0), 5}, row(5, large), begin);
  EXPECT_FALSE(rows.of({layer_id::of(0), 5}).empty()) << "there is room again";
}

}  // namespace
}  // namespace troupe::expert
