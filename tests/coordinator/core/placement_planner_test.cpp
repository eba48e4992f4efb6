#include "coordinator/core/placement_planner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>

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

// Nodes of two slots, all full but one slot of c: experts 0 (on a) and 2 (on b) are to change places.
TEST(placement_planner, lets_experts_change_places_through_one_free_slot) {
  auto input = blank({node("a", 2), node("b", 2), node("c", 2)}, 5, 1);
  for (std::uint32_t e = 0; e < 5; ++e) input.experts[e].replicas = {{e / 2, true, false, {}}};
  for (std::uint32_t n = 0; n < 3; ++n) input.nodes[n].slots_free = n == 2 ? 1 : 0;
  input.experts[0].chosen = {1};
  input.experts[2].chosen = {0};
  auto plan = plan_placement(input);
  using list = std::vector<std::vector<std::uint32_t>>;
  EXPECT_EQ(plan.wanted, (list{{0}, {0}, {2}, {1}, {2}})) << "expert 2 waits on c";
  ASSERT_EQ(plan.moves.size(), 2U);
  EXPECT_EQ(plan.moves[0], (planned_move{move_kind::add, {layer_id::of(0), 2}, 2, move_reason::make_room, 1U}));
  // While it is loaded there, nobody else steps aside.
  input.experts[2].replicas.push_back({2, false, false, 1U});
  input.nodes[2].slots_free = 0;
  EXPECT_EQ(plan_placement(input).wanted, plan.wanted);
  input = carried_out(input, plan);
  plan = plan_placement(input);
  EXPECT_EQ(plan.wanted, (list{{1}, {0}, {2}, {1}, {2}})) << "then expert 0 takes its place";
  input = carried_out(input, plan);
  plan = plan_placement(input);
  EXPECT_EQ(plan.wanted, (list{{1}, {0}, {0}, {1}, {2}})) << "and it the place of expert 0";
  input = carried_out(input, plan);
  EXPECT_TRUE(plan_placement(input).moves.empty());
}

TEST(placement_planner, nobody_steps_aside_without_a_free_slot) {
  auto input = blank({node("a", 1), node("b", 1)}, 2, 1);
  for (std::uint32_t e = 0; e < 2; ++e) {
    input.experts[e].replicas = {{e, true, false, {}}};
    input.experts[e].chosen = {1 - e};
    input.nodes[e].slots_free = 0;
  }
  EXPECT_TRUE(plan_placement(input).moves.empty());
}

// Full nodes but for a few slots somewhere, and every expert is to be elsewhere: all get there, one after the other.
TEST(placement_planner, any_exchange_of_places_ends_through_any_free_slot) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    const auto pick = [&](std::uint64_t low, std::uint64_t high) {
      return static_cast<std::uint32_t>(low + random() % (high - low + 1));
    };
    std::vector<planner_node> nodes;
    std::vector<std::uint32_t> places;
    const auto node_count = pick(2, 6);
    for (std::uint32_t n = 0; n < node_count; ++n) {
      nodes.push_back(node(fmt::format("n{}", n).c_str(), pick(1, 5)));
      places.insert(places.end(), nodes[n].slots, n);
    }
    const auto experts = static_cast<std::uint32_t>(places.size()) - 1;
    if (experts == 0) continue;
    auto input = blank(nodes, experts, 1);
    for (const bool is_aim : {false, true}) {
      for (auto i = places.size() - 1; i > 0; --i) std::swap(places[i], places[random() % (i + 1)]);
      for (std::uint32_t e = 0; e < experts; ++e) {
        if (is_aim) input.experts[e].chosen = {places[e]};
        if (!is_aim) input.experts[e].replicas = {{places[e], true, false, {}}};
        if (!is_aim) --input.nodes[places[e]].slots_free;
      }
    }
    auto plan = plan_placement(input);
    for (std::uint32_t round = 0; !plan.moves.empty(); ++round) {
      ASSERT_LT(round, 4 * experts) << "seed " << seed << ": the plan never comes to rest";
      input = carried_out(input, plan);
      plan = plan_placement(input);
    }
    for (std::uint32_t e = 0; e < experts; ++e) ASSERT_EQ(plan.wanted[e], input.experts[e].chosen) << "seed " << seed;
  }
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

// -- groups -----------------------------------------------------------------------------------------------------------

planner_input grouped(std::vector<planner_node> nodes, std::uint32_t layers, std::uint32_t groups, std::uint32_t size,
                      std::uint32_t replication) {
  auto input = blank(std::move(nodes), 0, replication);
  for (std::uint32_t l = 0; l < layers; ++l) {
    for (std::uint32_t e = 0; e < groups * size; ++e) {
      input.experts.push_back({.id = {layer_id::of(l), e}, .replicas = {}, .avoid = {}, .group = e / size});
    }
  }
  return input;
}

std::vector<planner_node> equal_nodes(std::uint32_t count, std::uint32_t slots, std::uint32_t zones = 1) {
  std::vector<planner_node> nodes;
  for (std::uint32_t n = 0; n < count; ++n) {
    nodes.push_back(node(fmt::format("n{:03}", n).c_str(), slots, fmt::format("z{}", n * zones / count).c_str()));
  }
  return nodes;
}

// The nodes that hold some of each group: (layer, group) -> nodes.
std::map<std::pair<layer_id, std::uint32_t>, std::set<std::uint32_t>> homes(const planner_input& input,
                                                                            const placement_plan& plan) {
  std::map<std::pair<layer_id, std::uint32_t>, std::set<std::uint32_t>> found;
  for (std::size_t e = 0; e < input.experts.size(); ++e) {
    const auto& expert = input.experts[e];
    found[{expert.id.layer, *expert.group}].insert(plan.wanted[e].begin(), plan.wanted[e].end());
  }
  return found;
}

// Carries plans out until nothing moves; at most `rounds` of them.
placement_plan come_to_rest(planner_input& input, int rounds = 200) {
  auto plan = plan_placement(input);
  for (int round = 0; round < rounds; ++round) {
    input = carried_out(input, plan);
    plan = plan_placement(input);
    if (plan.moves.empty()) return plan;
  }
  ADD_FAILURE() << "the plan never comes to rest";
  return plan;
}

std::size_t most(const std::vector<std::size_t>& counts) { return *std::ranges::max_element(counts); }

TEST(placement_groups, a_group_has_one_node_per_replica_and_nodes_have_equally_many) {
  for (std::uint32_t replication : {1U, 2U}) {
    auto input = grouped(equal_nodes(8, 16 * replication), 4, 8, 4, replication);
    const auto plan = plan_placement(input);
    EXPECT_EQ(plan.replicas_missing, 0U);
    for (const auto& [group, nodes] : homes(input, plan)) EXPECT_EQ(nodes.size(), replication);
    EXPECT_EQ(most(counts(plan, 8)), 16U * replication);
    EXPECT_TRUE(come_to_rest(input).moves.empty());
  }
}

TEST(placement_groups, with_more_nodes_than_groups_a_group_shares_the_nodes_of_a_zone) {
  auto input = grouped(equal_nodes(16, 8, 4), 4, 4, 8, 1);
  const auto plan = plan_placement(input);
  for (const auto& [group, nodes] : homes(input, plan)) {
    std::set<std::string> zones;
    for (auto n : nodes) zones.insert(input.nodes[n].zone);
    EXPECT_EQ(nodes.size(), 4U);
    EXPECT_EQ(zones.size(), 1U);
  }
  EXPECT_EQ(most(counts(plan, 16)), 8U);
}

TEST(placement_groups, a_lost_nodes_groups_stay_whole_and_come_back_whole_to_a_new_one) {
  auto input = grouped(equal_nodes(4, 24), 4, 8, 2, 1);
  come_to_rest(input);
  auto lost = input;
  lost.nodes.pop_back();
  for (auto& expert : lost.experts) {
    std::erase_if(expert.replicas, [](const planner_replica& replica) { return replica.node == 3; });
  }
  auto plan = come_to_rest(lost);
  for (const auto& [group, nodes] : homes(lost, plan)) EXPECT_EQ(nodes.size(), 1U);
  auto back = lost;
  back.nodes.push_back(input.nodes.back());
  back.nodes.back().slots_free = back.nodes.back().slots;
  plan = come_to_rest(back);
  for (const auto& [group, nodes] : homes(back, plan)) EXPECT_EQ(nodes.size(), 1U);
  EXPECT_EQ(counts(plan, 4), (std::vector<std::size_t>{16, 16, 16, 16}));
}

// A group that is larger than the moves of a plan moves in pieces: no piece goes back.
TEST(placement_groups, a_large_group_moves_to_a_new_node_piece_by_piece) {
  auto input = grouped(equal_nodes(2, 64), 1, 4, 16, 1);
  come_to_rest(input);
  input.nodes.push_back(node("n002", 64));
  std::map<expert_id, std::uint32_t> moved;
  for (int round = 0;; ++round) {
    ASSERT_LT(round, 100);
    auto plan = plan_placement(input);
    if (plan.moves.empty()) break;
    std::erase_if(plan.moves, [](const planned_move& move) { return move.kind == move_kind::drop; });
    for (std::size_t i = 0; i < std::min<std::size_t>(plan.moves.size(), 4); ++i) {
      const auto& move = plan.moves[i];
      auto& expert = *std::ranges::find(input.experts, move.expert, &planner_expert::id);
      ASSERT_EQ(++moved[move.expert], 1U) << "expert " << to_string(move.expert) << " moves twice";
      ++input.nodes[expert.replicas.front().node].slots_free;
      --input.nodes[move.node].slots_free;
      expert.replicas = {{move.node, true, false, {}}};
    }
  }
  const auto plan = plan_placement(input);
  for (const auto& [group, nodes] : homes(input, plan)) EXPECT_EQ(nodes.size(), 1U);
  EXPECT_EQ(moved.size(), 16U);
}

TEST(placement_groups, what_an_operator_chose_stays_and_nobody_follows) {
  auto input = grouped(equal_nodes(4, 8), 1, 4, 4, 1);
  come_to_rest(input);
  auto& moved = input.experts[1];
  const auto home = moved.replicas.front().node;
  const auto elsewhere = (home + 1) % 4;
  moved.chosen = {elsewhere};
  const auto plan = come_to_rest(input);
  EXPECT_EQ(plan.wanted[1], std::vector{elsewhere});
  for (std::size_t e : {0U, 2U, 3U}) EXPECT_EQ(plan.wanted[e], std::vector{home});
}

// Random clusters of random beginnings: the rules hold, the plan comes to rest, and where every node has room to spare
// no group has more nodes than it needs.
TEST(placement_groups, random_clusters_come_to_rest_with_their_groups_together) {
  for (std::uint64_t seed = 1; seed <= 500; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    auto pick = [&](std::uint64_t low, std::uint64_t high) {
      return static_cast<std::uint32_t>(low + random() % (high - low + 1));
    };
    const auto layers = pick(1, 3);
    const auto groups = pick(2, 5);
    const auto size = pick(1, 5);
    const auto replication = pick(1, 2);
    const bool roomy = pick(0, 1) == 0;
    const auto all = layers * groups * size;
    std::vector<planner_node> nodes;
    for (std::uint32_t n = 0; n < pick(2, 6); ++n) {
      nodes.push_back(node(fmt::format("n{}", n).c_str(), roomy ? all * replication : pick(1, all), "z"));
    }
    auto input = grouped(nodes, layers, groups, size, replication);
    for (auto& expert : input.experts) {  // scattered to begin with
      const auto n = pick(0, nodes.size() - 1);
      if (pick(0, 3) == 0 || input.nodes[n].slots_free == 0) continue;
      expert.replicas.push_back({n, true, false, {}});
      --input.nodes[n].slots_free;
    }
    const auto plan = come_to_rest(input, 400);
    const auto held = counts(plan, nodes.size());
    for (std::size_t n = 0; n < nodes.size(); ++n) ASSERT_LE(held[n], nodes[n].slots);
    for (const auto& wanted : plan.wanted) {
      ASSERT_EQ(std::set(wanted.begin(), wanted.end()).size(), wanted.size());
      ASSERT_LE(wanted.size(), replication);
    }
    if (!roomy) continue;
    EXPECT_EQ(plan.replicas_missing, 0U);
    const auto copies = std::min<std::size_t>(replication, nodes.size());
    const auto for_one = std::max<std::size_t>(nodes.size() / (groups * replication), 1);
    if (replication > 1) continue;  // copies that began crosswise stay so
    for (const auto& [group, at] : homes(input, plan)) {
      EXPECT_LE(at.size(), std::min<std::size_t>(for_one, size) * copies) << "group " << group.second;
    }
  }
}

}  // namespace
}  // namespace troupe::coordinator
