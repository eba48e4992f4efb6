#include "coordinator/core/load_planner.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "bench/planner/eplb.hpp"
#include "bench/planner/placement.hpp"

namespace troupe::coordinator {
namespace {

using placement = std::vector<std::uint32_t>;

std::vector<load_node> equal_nodes(std::uint32_t count, std::uint32_t slots) { return {count, load_node{slots, 0, 1}}; }

std::vector<std::uint32_t> slots_of(const std::vector<load_node>& nodes) {
  std::vector<std::uint32_t> slots;
  for (const auto& node : nodes) slots.push_back(node.slots);
  return slots;
}

// The nodes of each expert, as often as they hold it.
std::map<std::uint32_t, std::vector<std::uint32_t>> holders_of(const placement& held,
                                                               const std::vector<load_node>& nodes) {
  std::map<std::uint32_t, std::vector<std::uint32_t>> holders;
  std::size_t slot = 0;
  for (std::uint32_t n = 0; n < nodes.size(); ++n) {
    for (std::uint32_t i = 0; i < nodes[n].slots; ++i, ++slot) {
      if (held[slot] != no_expert) holders[held[slot]].push_back(n);
    }
  }
  return holders;
}

class dice {
 public:
  explicit dice(std::uint64_t seed) : random_{seed} {}
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(random_() % bound); }
  double uniform() { return static_cast<double>((random_() >> 11) + 1) * 0x1.0p-53; }
  double normal() { return std::sqrt(-2 * std::log(uniform())) * std::cos(6.283185307179586 * uniform()); }
  std::vector<double> zipf(std::uint32_t experts, double exponent) {
    std::vector<double> loads;
    for (std::uint32_t e = 0; e < experts; ++e) loads.push_back(std::pow(e + 1.0, -exponent));
    for (std::uint32_t e = experts - 1; e > 0; --e) std::swap(loads[e], loads[below(e + 1)]);
    return loads;
  }
  std::vector<double> shaken(std::vector<double> loads, double noise) {
    for (auto& load : loads) load *= std::exp(noise * normal());
    return loads;
  }

 private:
  std::mt19937_64 random_;
};

// The example to check by hand: three nodes of two slots, four experts with loads 6, 3, 2, 1: 12 in all, 4 per node.
//   counts     expert 0 is fullest: 3 + 3; then experts 0 and 1 have 3 each, and 1 has fewer replicas: 1.5 + 1.5
//   placement  3 -> a, 3 -> b, 2 -> c, 1.5 -> c, 1.5 -> a (the first of two alike), 1 -> b: 4.5, 4 and 3.5
//   after that no two replicas can change places so that the fuller node gets emptier, and no spare replica can give
//   its slot to another expert; but both together lead to 3 + 1 on each: 1 and 2, 0 and 2, 0 and 3
TEST(load_planner, counts_then_places_the_fullest_first) {
  load_planner planner{equal_nodes(3, 2), {}};
  const std::vector<double> loads{6, 3, 2, 1};
  const auto plan = planner.plan(loads, {});
  EXPECT_EQ(bench::node_loads(loads, plan.expert_of_slot, std::vector<std::uint32_t>{2, 2, 2}),
            (std::vector<double>{4, 4, 4}));
  EXPECT_TRUE(plan.moves.empty());
}

TEST(load_planner, moves_nothing_below_the_target) {
  load_planner planner{equal_nodes(2, 2), {.moves_max = 10, .imbalance_target = 0.05}};
  const placement held{0, 1, 2, 3};
  const std::vector<double> loads{10, 10, 10.4, 10};
  const auto plan = planner.plan(loads, held);
  EXPECT_EQ(plan.expert_of_slot, held);
  EXPECT_TRUE(plan.moves.empty());
  EXPECT_NEAR(plan.imbalance_after, 20.4 / 20.2 - 1, 1e-12);
}

// Two hot experts share a node: one of them changes places with a cold one.
TEST(load_planner, says_what_moves_where_and_why) {
  load_planner planner{equal_nodes(2, 2), {.moves_max = 10, .imbalance_target = 0.05, .expert_bytes = 100}};
  const std::vector<double> loads{10, 10, 1, 1};
  const auto plan = planner.plan(loads, placement{0, 1, 2, 3});
  EXPECT_NEAR(plan.imbalance_before, 20.0 / 11 - 1, 1e-12);
  EXPECT_NEAR(plan.imbalance_after, 0, 1e-12);
  ASSERT_EQ(plan.moves.size(), 2U);
  EXPECT_EQ(plan.bytes, 200U);
  EXPECT_EQ(plan.moves[0].to, 0U);
  EXPECT_EQ(plan.moves[0].from, 1U);
  EXPECT_EQ(plan.moves[1].to, 1U);
  EXPECT_EQ(plan.moves[1].from, 0U);
  EXPECT_EQ(plan.moves[1].instead_of, plan.moves[0].expert);
  EXPECT_EQ(plan.moves[0].reason, load_move::why::migrate);
}

// Nothing is left to change places with, but expert 1 has a spare replica: one move instead of two.
TEST(load_planner, replicates_where_that_is_cheaper) {
  load_planner planner{equal_nodes(2, 2), {.moves_max = 1, .imbalance_target = 0.05}};
  const std::vector<double> loads{10, 2, 2};
  const auto plan = planner.plan(loads, placement{0, 1, 2, 1});
  EXPECT_EQ(plan.moves, (std::vector<load_move>{{0, 1, std::nullopt, 1, load_move::why::replicate}}));
  EXPECT_NEAR(plan.imbalance_after, 0, 1e-12);
}

TEST(load_planner, covers_what_is_served_nowhere_whatever_the_limit) {
  load_planner planner{equal_nodes(2, 2), {.moves_max = 0}};
  const std::vector<double> loads{1, 1, 1};
  const auto plan = planner.plan(loads, placement{0, 1, no_expert, 1});
  ASSERT_EQ(plan.moves.size(), 1U);
  EXPECT_EQ(plan.moves[0], (load_move{2, 1, std::nullopt, std::nullopt, load_move::why::cover}));
}

TEST(load_planner, keeps_replicas_in_different_zones) {
  std::vector<load_node> nodes;
  for (std::uint32_t n = 0; n < 8; ++n) nodes.push_back({4, n / 2, 1});
  load_planner planner{nodes, {}};
  dice random{7};
  const auto loads = random.zipf(24, 1);
  const auto placed = planner.plan(loads, {});
  const auto moved = planner.plan(random.shaken(loads, 0.6), placed.expert_of_slot);
  for (const auto& held : {placed.expert_of_slot, moved.expert_of_slot}) {
    for (const auto& [e, at] : holders_of(held, nodes)) {
      std::set<std::uint32_t> zones;
      for (auto n : at) zones.insert(nodes[n].zone);
      EXPECT_EQ(zones.size(), std::min<std::size_t>(at.size(), 4)) << "expert " << e;
    }
  }
}

TEST(load_planner, gives_a_fast_node_more_to_do) {
  load_planner planner{{{8, 0, 1}, {8, 0, 3}}, {}};
  const std::vector<double> loads{1, 3, 1, 3, 1, 3, 1, 3, 3, 1, 3, 1, 3, 1, 3, 1};
  const auto plan = planner.plan(loads, {});
  const auto load = bench::node_loads(loads, plan.expert_of_slot, std::vector<std::uint32_t>{8, 8});
  EXPECT_EQ(load, (std::vector<double>{8, 24}));
  EXPECT_NEAR(plan.imbalance_after, 0, 1e-12);
}

// What must hold whatever comes in: random loads (zeros among them), unequal nodes, zones, present placements with
// holes, doubles and experts that are missing, limits of moves.
class random_layers : public testing::TestWithParam<int> {};

TEST_P(random_layers, keep_the_rules) {
  for (int i = 0; i < 500; ++i) {
    const auto seed = static_cast<std::uint64_t>(GetParam() * 500 + i);
    SCOPED_TRACE(seed);
    dice random{seed};
    const auto experts = 1 + random.below(40);
    const auto node_count = 1 + random.below(12);
    std::vector<load_node> nodes;
    std::uint32_t slots = 0;
    for (std::uint32_t n = 0; n < node_count; ++n) {
      nodes.push_back({1 + random.below(8), random.below(3), random.below(4) == 0 ? 2.0 : 1.0});
      slots += nodes.back().slots;
    }
    if (slots < experts) {
      nodes[0].slots += experts - slots;
      slots = experts;
    }
    std::vector<double> loads;
    for (std::uint32_t e = 0; e < experts; ++e) {
      loads.push_back(random.below(5) == 0 ? 0 : std::exp(3 * random.normal()));
    }
    placement present;
    if (random.below(3) > 0) {
      for (std::uint32_t s = 0; s < slots; ++s)
        present.push_back(random.below(6) == 0 ? no_expert : random.below(experts));
    }
    const std::int64_t moves_max = std::int64_t{random.below(12)} - 1;
    load_planner planner{nodes, {.moves_max = moves_max}};
    const auto plan = planner.plan(loads, present);

    ASSERT_EQ(plan.expert_of_slot.size(), slots);
    const auto holders = holders_of(plan.expert_of_slot, nodes);
    ASSERT_EQ(holders.size(), experts) << "an expert is served nowhere";
    for (const auto& [e, at] : holders) {
      ASSERT_EQ(std::set(at.begin(), at.end()).size(), at.size()) << "twice on a node: expert " << e;
    }
    const auto node_slots = slots_of(nodes);
    const bool was_empty = std::ranges::all_of(present, [](auto e) { return e == no_expert; });
    if (was_empty) {
      ASSERT_TRUE(plan.moves.empty());
    } else {
      ASSERT_EQ(plan.moves.size(), bench::count_moves(present, plan.expert_of_slot, node_slots));
      const auto covers = std::ranges::count(plan.moves, load_move::why::cover, &load_move::reason);
      ASSERT_TRUE(moves_max < 0 || std::cmp_less_equal(plan.moves.size(), std::max<std::int64_t>(moves_max, covers)));
    }
    for (std::uint32_t slot = 0, n = 0; n < node_count; ++n) {
      std::set<std::uint32_t> seen;  // a second replica on the node has no slot of its own
      for (const auto last = slot + nodes[n].slots; slot < last; ++slot) {
        if (was_empty || present[slot] == no_expert || !seen.insert(present[slot]).second) continue;
        const auto& at = holders.at(present[slot]);
        const bool stays = std::ranges::find(at, n) != at.end();
        ASSERT_EQ(plan.expert_of_slot[slot] == present[slot], stays) << "slot " << slot;
      }
    }
    if (was_empty || moves_max < 0) {
      std::size_t usable = 0;
      for (auto own : node_slots) usable += std::min(own, experts);
      ASSERT_EQ(slots - static_cast<std::size_t>(std::ranges::count(plan.expert_of_slot, no_expert)), usable);
    }
    if (std::ranges::all_of(nodes, [](const auto& node) { return node.speed == 1; })) {
      ASSERT_NEAR(plan.imbalance_after, bench::imbalance(loads, plan.expert_of_slot, node_slots), 1e-9);
    }
    ASSERT_EQ(planner.plan(loads, present).expert_of_slot, plan.expert_of_slot) << "not deterministic";
  }
}
INSTANTIATE_TEST_SUITE_P(seeds, random_layers, testing::Range(0, 10));

// The figures that issue 5 asks for, on loads of its shapes.
struct goal {
  double exponent;
  double noise;
  std::uint32_t moves_max;
};
class load_planner_goals : public testing::TestWithParam<goal> {};

TEST_P(load_planner_goals, are_reached) {
  const auto nodes = equal_nodes(32, 9);
  const auto node_slots = slots_of(nodes);
  const auto [exponent, noise, moves_max] = GetParam();
  load_planner limited{nodes, {.moves_max = moves_max}};
  load_planner unlimited{nodes, {}};
  dice random{20260000 + static_cast<std::uint64_t>(100 * exponent + noise)};
  double planned = 0, published = 0;
  for (int layer = 0; layer < 29; ++layer) {
    const auto before = random.zipf(256, exponent);
    const auto after = random.shaken(before, noise);
    const auto present = unlimited.plan(before, {}).expert_of_slot;
    const auto plan = limited.plan(after, present);
    EXPECT_LE(bench::imbalance(after, plan.expert_of_slot, node_slots), 0.05);
    EXPECT_LE(plan.moves.size(), moves_max);
    EXPECT_EQ(bench::count_wasted(plan.expert_of_slot, node_slots), 0U);
    planned += bench::imbalance(after, unlimited.plan(after, present).expert_of_slot, node_slots);
    published += bench::imbalance(after, bench::eplb(after, {256, 288, 32, 1, 1}), node_slots);
  }
  EXPECT_LE(planned, published);
}
INSTANTIATE_TEST_SUITE_P(shapes, load_planner_goals,
                         testing::Values(goal{0.5, 0.1, 10}, goal{0.5, 0.3, 25}, goal{0.5, 0.6, 50}, goal{0.8, 0.1, 10},
                                         goal{0.8, 0.3, 25}, goal{0.8, 0.6, 50}, goal{1.1, 0.1, 10}, goal{1.1, 0.3, 25},
                                         goal{1.1, 0.6, 50}));

// The same without a limit of moves for layers of any size. EPLB may put two copies on one node, which splits a load
// unevenly: in one layer in ten of the smallest shapes that is luck which no allowed placement has, so means are
// compared.
struct shape {
  std::uint32_t experts, nodes, slots_per_node;
};
class load_planner_shapes : public testing::TestWithParam<shape> {};

TEST_P(load_planner_shapes, are_planned_at_least_as_evenly_as_by_the_published_balancer) {
  const auto experts = GetParam().experts, node_count = GetParam().nodes, own_slots = GetParam().slots_per_node;
  const auto nodes = equal_nodes(node_count, own_slots);
  const auto node_slots = slots_of(nodes);
  load_planner planner{nodes, {}};
  dice random{experts * 1000 + node_count};
  double first = 0, next = 0, published_first = 0, published_next = 0;
  auto published = [&](const std::vector<double>& loads) {
    const auto held = bench::eplb(loads, {experts, node_count * own_slots, node_count, 1, 1});
    return bench::imbalance(loads, held, node_slots);
  };
  for (int layer = 0; layer < 30; ++layer) {
    const auto before = random.zipf(experts, 0.5);
    const auto after = random.shaken(before, 0.3);
    const auto placed = planner.plan(before, {});
    first += placed.imbalance_after;
    next += planner.plan(after, placed.expert_of_slot).imbalance_after;
    published_first += published(before);
    published_next += published(after);
  }
  EXPECT_LE(first, published_first + 1e-9);
  EXPECT_LE(next, published_next + 1e-9);
}
INSTANTIATE_TEST_SUITE_P(shapes, load_planner_shapes,
                         testing::Values(shape{8, 2, 5}, shape{8, 2, 6}, shape{8, 4, 3}, shape{8, 8, 2}, shape{8, 8, 3},
                                         shape{16, 4, 5}, shape{64, 8, 9}, shape{128, 4, 33}, shape{512, 8, 65}));

// The published balancer, by hand: loads 90, 40, 30, 20, six slots, two nodes. 90 is split, and its halves (45) are
// still the fullest: 30, 30, 30. Packed largest first: 40 -> a, 30 -> b, 30 -> b, 30 -> a, 30 -> b, 20 -> a: 90 and 90.
TEST(eplb, replicates_the_fullest_and_packs_largest_first) {
  const std::vector<double> loads{90, 40, 30, 20};
  const auto held = bench::eplb(loads, {4, 6, 2, 1, 1});
  EXPECT_EQ(std::ranges::count(held, 0U), 3);
  EXPECT_EQ(bench::count_wasted(held, std::vector<std::uint32_t>{3, 3}), 1U);  // two thirds of expert 0 on one node
  EXPECT_EQ(bench::node_loads(loads, held, std::vector<std::uint32_t>{3, 3}), (std::vector<double>{90, 90}));
}

TEST(eplb, keeps_groups_on_their_machine) {
  dice random{3};
  const auto loads = random.zipf(64, 0.8);
  const auto held = bench::eplb(loads, {64, 96, 8, 4, 8});
  std::map<std::uint32_t, std::set<std::size_t>> machines;  // of each group of 8 experts
  for (std::size_t slot = 0; slot < held.size(); ++slot) machines[held[slot] / 8].insert(slot / 24);
  ASSERT_EQ(machines.size(), 8U);
  for (const auto& [group, at] : machines) EXPECT_EQ(at.size(), 1U) << "group " << group;
}

TEST(eplb, refuses_what_does_not_divide) {
  EXPECT_TRUE(bench::check_eplb_shape({256, 288, 32, 4, 8}));
  EXPECT_FALSE(bench::check_eplb_shape({256, 290, 32, 1, 1}));
  EXPECT_FALSE(bench::check_eplb_shape({256, 288, 32, 3, 8}));
  EXPECT_FALSE(bench::check_eplb_shape({256, 224, 32, 1, 1}));
}

TEST(placement_ruler, renames_nodes_so_that_nothing_moves) {
  const placement before{0, 1, 2, 3, 4, 5};
  const placement after{5, 4, 1, 0, 3, 2};  // the same nodes in another order
  const std::vector<std::uint32_t> node_slots{2, 2, 2};
  EXPECT_EQ(bench::count_moves(before, after, node_slots), 6U);
  EXPECT_EQ(bench::count_moves(before, bench::rename_nodes(before, after, 2), node_slots), 0U);
}

}  // namespace
}  // namespace troupe::coordinator
