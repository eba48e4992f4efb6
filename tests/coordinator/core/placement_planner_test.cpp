#include "coordinator/core/placement_planner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>

#include <fmt/format.h>

namespace troupe::coordinator {
namespace {

planner_node node(const char* name, std::uint32_t slots, const char* zone = "z") {
  return {{name}, zone, slots, slots, true};
}

planner_input blank(std::vector<planner_node> nodes, std::uint32_t experts, std::uint32_t replication) {
  planner_input input;
  input.nodes = std::move(nodes);
  input.replication = replication;
  input.balance_moves_max = 4;
  for (std::uint32_t e = 0; e < experts; ++e) input.experts.push_back({{layer_id::of(0), e}, 1.0, {}, {}});
  return input;
}

// As if the plan had been carried out: replicas ready, slots used.
planner_input carried_out(planner_input input, const placement_plan& plan) {
  for (std::size_t n = 0; n < input.nodes.size(); ++n) input.nodes[n].slots_free = input.nodes[n].slots;
  for (std::size_t e = 0; e < input.experts.size(); ++e) {
    input.experts[e].replicas.clear();
    for (auto n : plan.wanted[e]) {
      input.experts[e].replicas.push_back({n, true, false, {}});
      --input.nodes[n].slots_free;
    }
  }
  return input;
}

std::vector<std::size_t> counts(const placement_plan& plan, std::size_t nodes) {
  std::vector<std::size_t> result(nodes);
  for (const auto& wanted : plan.wanted) {
    for (auto n : wanted) ++result[n];
  }
  return result;
}

// The example to check by hand: two big nodes and a small one, four experts, two replicas each. First every expert
// once:
//   expert 0: all are empty: a, the first by name          expert 1: b and c are empty: b
//   expert 2: c is empty: c                                expert 3: a and b are 1/4 full, c 1/2: a
// then every expert a second time, on another node:
//   expert 0: b is 1/4 full, c 1/2: b                      expert 1: a and c are both half full: a
//   expert 2: a is 3/4 full, b 1/2: b                      expert 3: b is 3/4 full, c 1/2: c
TEST(placement_planner, fills_unequal_nodes_alike) {
  auto plan = plan_placement(blank({node("a", 4), node("b", 4), node("c", 2)}, 4, 2));
  using list = std::vector<std::uint32_t>;
  EXPECT_EQ(plan.wanted, (std::vector<list>{{0, 1}, {0, 1}, {1, 2}, {0, 2}}));
  EXPECT_EQ(plan.replicas_missing, 0U);
  EXPECT_EQ(plan.moves.size(), 8U);
  EXPECT_EQ(plan.moves.front(),
            (planned_move{move_kind::add, {layer_id::of(0), 0}, 0, move_reason::first_replica, {}}));
  EXPECT_EQ(plan.moves.back().reason, move_reason::replication);
}

TEST(placement_planner, spreads_replicas_over_zones) {
  auto plan = plan_placement(blank({node("a", 9, "left"), node("b", 9, "left"), node("c", 9, "right")}, 5, 2));
  for (const auto& wanted : plan.wanted) {
    ASSERT_EQ(wanted.size(), 2U);
    EXPECT_EQ(wanted[1], 2U) << "one of the two replicas must be in the right zone";
  }
}

TEST(placement_planner, serves_every_expert_once_before_any_twice) {
  auto plan = plan_placement(blank({node("a", 3), node("b", 3)}, 5, 2));
  EXPECT_EQ(plan.experts_without_replica, 0U);
  EXPECT_EQ(plan.replicas_missing, 4U);
}

TEST(placement_planner, asks_for_no_second_replica_on_the_only_node) {
  auto plan = plan_placement(blank({node("a", 8)}, 3, 2));
  EXPECT_EQ(counts(plan, 1), (std::vector<std::size_t>{3}));
  EXPECT_EQ(plan.replicas_missing, 3U);
}

TEST(placement_planner, empties_a_node_that_is_drained) {
  auto input = blank({node("a", 4), node("b", 4)}, 4, 1);
  input = carried_out(input, plan_placement(input));
  input.nodes[0].accepts = false;
  auto plan = plan_placement(input);
  EXPECT_EQ(counts(plan, 2), (std::vector<std::size_t>{0, 4}));
  auto drops = std::ranges::count_if(plan.moves, [](const auto& m) { return m.reason == move_reason::drain; });
  EXPECT_EQ(drops, 2);
}

TEST(placement_planner, gives_a_returning_node_its_old_role) {
  // Expert 0 was on b; b was lost, so a loads it; now b is back with its verified copy.
  auto input = blank({node("a", 4), node("b", 4)}, 3, 1);
  input.experts[0].replicas = {{0, false, false, {}}, {1, true, false, {}}};
  input.experts[1].replicas = {{0, true, false, {}}};
  input.experts[2].replicas = {{0, true, false, {}}};
  auto plan = plan_placement(input);
  EXPECT_EQ(plan.wanted[0], std::vector<std::uint32_t>{1});
  EXPECT_EQ(plan.moves.front(), (planned_move{move_kind::drop, {layer_id::of(0), 0}, 0, move_reason::surplus, {}}));
}

TEST(placement_planner, balances_at_a_bounded_number_of_moves) {
  auto input = blank({node("a", 20), node("b", 20)}, 16, 1);
  for (auto& expert : input.experts) expert.replicas = {{0, true, false, {}}};
  input.nodes[0].slots_free = 4;
  auto plan = plan_placement(input);
  EXPECT_EQ(counts(plan, 2), (std::vector<std::size_t>{12, 4}));
  for (const auto& move : plan.moves) EXPECT_EQ(move.reason, move_reason::balance);
}

TEST(placement_planner, leaves_the_places_of_pruned_experts_free) {
  auto input = blank({node("a", 8), node("b", 8)}, 8, 1);
  auto first = plan_placement(input);
  input = carried_out(input, first);
  for (std::uint32_t e = 0; e < 8; e += 2) {  // all of them were on one node
    ASSERT_EQ(first.wanted[e], std::vector<std::uint32_t>{0});
    input.experts[e].count = 0;
    input.experts[e].chosen = first.wanted[e];
    input.experts[e].replicas.clear();
    ++input.nodes[0].slots_free;
  }
  EXPECT_TRUE(plan_placement(input).moves.empty());
  for (auto& expert : input.experts) expert.count.reset();
  EXPECT_EQ(plan_placement(input).wanted, first.wanted);
}

TEST(placement_planner, avoids_a_node_that_failed_a_moment_ago) {
  auto input = blank({node("a", 4), node("b", 4)}, 1, 1);
  input.experts[0].avoid = {0};
  EXPECT_EQ(plan_placement(input).wanted[0], std::vector<std::uint32_t>{1});
}

TEST(placement_planner, makes_room_when_free_slots_are_in_the_wrong_place) {
  auto input = blank({node("a", 2), node("b", 2), node("c", 2)}, 3, 2);
  input.experts[0].replicas = {{0, true, false, {}}, {1, true, false, {}}};
  input.experts[1].replicas = {{0, true, false, {}}, {1, true, false, {}}};
  input.nodes[0].slots_free = input.nodes[1].slots_free = 0;
  // Expert 2 gets c, and its second replica needs a slot on a or b: one of their experts must move to c.
  auto plan = plan_placement(input);
  EXPECT_TRUE(std::ranges::any_of(plan.moves, [](const auto& m) { return m.reason == move_reason::make_room; }));
}

// Random clusters: whatever the numbers, the plan keeps the rules, and a plan that was carried out is planned again as
// it is (no move is ever undone).
TEST(placement_planner, keeps_its_rules_on_random_clusters) {
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    std::mt19937_64 random(seed);
    auto pick = [&](std::uint64_t low, std::uint64_t high) {
      return static_cast<std::uint32_t>(low + random() % (high - low + 1));
    };
    std::vector<planner_node> nodes;
    for (std::uint32_t n = 0; n < pick(1, 6); ++n) {
      nodes.push_back(node(fmt::format("n{}", n).c_str(), pick(1, 12), pick(0, 1) == 0 ? "left" : "right"));
    }
    auto input = blank(nodes, pick(1, 30), pick(1, 3));
    for (auto& expert : input.experts) expert.id.layer = layer_id::of(pick(0, 1));
    std::ranges::sort(input.experts, {}, &planner_expert::id);
    auto plan = plan_placement(input);
    for (int round = 0; round < 200; ++round) {
      auto held = counts(plan, nodes.size());
      for (std::size_t n = 0; n < nodes.size(); ++n) ASSERT_LE(held[n], nodes[n].slots) << "seed " << seed;
      for (const auto& wanted : plan.wanted) {
        ASSERT_EQ(std::set(wanted.begin(), wanted.end()).size(), wanted.size()) << "seed " << seed;
        ASSERT_LE(wanted.size(), input.replication) << "seed " << seed;
      }
      if (plan.moves.empty() && round > 0) break;
      ASSERT_LT(round, 199) << "seed " << seed << ": the plan never comes to rest";
      input = carried_out(input, plan);
      plan = plan_placement(input);
    }
  }
}

}  // namespace
}  // namespace troupe::coordinator
