#include "router_node/core/generation/fair_line.hpp"

#include <gtest/gtest.h>

namespace troupe::router {
namespace {

constexpr auto everybody = [](const std::string&) { return true; };

// Serves all that may run, in order.
std::vector<std::uint64_t> serve_all(fair_line& line, const std::unordered_map<std::uint64_t, std::string>& client_of) {
  std::vector<std::uint64_t> order;
  while (const auto id = line.next(everybody)) {
    line.serve(client_of.at(id->value), *id);
    order.push_back(id->value);
  }
  return order;
}

TEST(fair_line, one_client_is_served_in_order) {
  fair_line line;
  for (std::uint64_t id = 1; id <= 3; ++id) line.push("a", {id}, 10);
  EXPECT_EQ(line.size(), 3U);
  EXPECT_EQ(line.tokens(), 30U);
  EXPECT_EQ(serve_all(line, {{1, "a"}, {2, "a"}, {3, "a"}}), (std::vector<std::uint64_t>{1, 2, 3}));
  EXPECT_EQ(line.size(), 0U);
  EXPECT_EQ(line.tokens(), 0U);
}

TEST(fair_line, clients_take_turns_however_many_one_has_put_in) {
  fair_line line;
  for (std::uint64_t id = 1; id <= 4; ++id) line.push("flood", {id}, 1);
  line.push("b", {5}, 1);
  line.push("c", {6}, 1);
  line.push("b", {7}, 1);
  EXPECT_EQ(serve_all(line, {{1, "flood"}, {2, "flood"}, {3, "flood"}, {4, "flood"}, {5, "b"}, {6, "c"}, {7, "b"}}),
            (std::vector<std::uint64_t>{1, 5, 6, 2, 7, 3, 4}));
}

TEST(fair_line, a_client_that_may_not_run_keeps_its_turn) {
  fair_line line;
  line.push("a", {1}, 1);
  line.push("b", {2}, 1);
  const auto next = line.next([](const std::string& client) { return client != "a"; });
  ASSERT_TRUE(next);
  EXPECT_EQ(next->value, 2U);
  line.serve("b", *next);
  line.push("b", {3}, 1);
  EXPECT_EQ(line.next(everybody)->value, 1U);
  EXPECT_FALSE(line.next([](const std::string&) { return false; }));
}

TEST(fair_line, removing_leaves_the_others_in_order) {
  fair_line line;
  for (std::uint64_t id = 1; id <= 3; ++id) line.push("a", {id}, id);
  line.remove("a", {1});
  EXPECT_EQ(line.size_of("a"), 2U);
  EXPECT_EQ(line.tokens_of("a"), 5U);
  EXPECT_EQ(line.next(everybody)->value, 2U);
  line.remove("a", {3});
  line.remove("a", {2});
  EXPECT_EQ(line.size_of("a"), 0U);
  EXPECT_FALSE(line.next(everybody));
}

}  // namespace
}  // namespace troupe::router
