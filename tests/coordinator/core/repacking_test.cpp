// Which replicas change places, from given figures.
#include "coordinator/core/repacking.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/limits.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::IsEmpty;

expert_load on(std::uint32_t index, std::uint32_t node, std::uint64_t rows) {
  expert_load load;
  load.index = index;
  load.is_present = true;
  load.nodes = {node};
  load.rows = rows;
  return load;
}

// Experts 0 and 1 of node a are `hot` times as busy as 2 and 3 of node b.
layer_load uneven(std::uint16_t number, std::uint64_t hot) {
  return {layer_id::of(number), {on(0, 0, 500 * hot), on(1, 0, 500 * hot), on(2, 1, 500), on(3, 1, 500)}, false};
}

policy_input two_nodes(std::vector<layer_load> layers) {
  policy_input input;
  input.nodes = {{{"a"}, 5, 0}, {{"b"}, 5, 0}};
  input.layers = std::move(layers);
  return input;
}

TEST(repacking, busy_experts_of_one_node_are_put_apart) {
  auto plan = plan_repacking(two_nodes({uneven(0, 5)}), 10);
  EXPECT_EQ(plan.moves, 2U);
  ASSERT_EQ(plan.experts.size(), 2U);
  std::map<std::string, int> got;
  for (const auto& placed : plan.experts) {
    ASSERT_EQ(placed.nodes.size(), 1U) << "as many replicas as before";
    ++got[placed.nodes[0].value];
    EXPECT_EQ(placed.nodes[0].value, placed.expert.index < 2 ? "b" : "a");
  }
  EXPECT_EQ(got, (std::map<std::string, int>{{"a", 1}, {"b", 1}})) << "each node has as many as before";
  EXPECT_NEAR(plan.imbalance_before, 2.0 / 3, 1e-9);
  EXPECT_NEAR(plan.imbalance_after, 0, 1e-9);
}

TEST(repacking, the_most_uneven_layers_come_first_and_the_moves_are_bounded) {
  auto input = two_nodes({uneven(0, 3), uneven(1, 9), uneven(2, 5)});
  EXPECT_EQ(plan_repacking(input, 100).moves, 6U);
  auto plan = plan_repacking(input, 5);
  EXPECT_EQ(plan.moves, 4U) << "a step of two does not fit into one";
  EXPECT_EQ(plan.layers, 2U);
  for (const auto& placed : plan.experts) EXPECT_NE(placed.expert.layer, layer_id::of(0));
  EXPECT_THAT(plan_repacking(input, 1).experts, IsEmpty());
  EXPECT_THAT(plan_repacking(input, 0).experts, IsEmpty());
}

TEST(repacking, leaves_alone_what_must_not_move_and_what_is_not_worth_it) {
  auto quiet = uneven(0, 5);
  for (auto& expert : quiet.experts) expert.rows /= 10;
  EXPECT_THAT(plan_repacking(two_nodes({quiet}), 10).experts, IsEmpty());
  auto changing = uneven(0, 5);
  changing.is_changing = true;
  EXPECT_THAT(plan_repacking(two_nodes({changing}), 10).experts, IsEmpty());
  auto pinned = uneven(0, 5);
  for (auto& expert : pinned.experts) expert.is_fixed = true;
  EXPECT_THAT(plan_repacking(two_nodes({pinned}), 10).experts, IsEmpty());
  layer_load even{layer_id::of(0), {on(0, 0, 1000), on(1, 1, 1050)}, false};
  EXPECT_THAT(plan_repacking(two_nodes({even}), 10).experts, IsEmpty());
}

}  // namespace
}  // namespace troupe::coordinator::testing
