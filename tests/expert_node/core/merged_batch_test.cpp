#include "expert_node/core/merged_batch.hpp"

#include <array>

#include <gtest/gtest.h>

namespace troupe::expert {
namespace {

expert_call call_with(std::vector<wanted_expert> experts, std::vector<std::uint32_t> rows, std::vector<float> weights,
                      std::uint32_t count) {
  expert_call call;
  call.layer = layer_id::of(2);
  call.rows = count;
  call.experts = std::move(experts);
  call.row_index = std::move(rows);
  call.gate_weight = std::move(weights);
  return call;
}

TEST(merged_batch, numbers_rows_through_the_calls_and_orders_groups_by_expert) {
  auto first = call_with({{9, {1}, 2}, {4, {1}, 1}}, {0, 2, 1}, {0.5F, 0.25F, 1.0F}, 3);
  auto second = call_with({{4, {1}, 2}}, {0, 1}, {2.0F, 3.0F}, 2);
  std::array<std::byte, 4> memory{};
  merged_batch merged;
  auto a = merged.add_rows(&memory[0], &memory[1], first.rows);
  auto b = merged.add_rows(&memory[2], &memory[3], second.rows);
  merged.add_expert(a, first, 0, 2, {first.layer, 9}, {70});
  merged.add_expert(a, first, 2, 1, {first.layer, 4}, {80});
  merged.add_expert(b, second, 0, 2, {second.layer, 4}, {80});

  auto view = merged.view({.hidden = 8, .width = 4});
  ASSERT_EQ(view.segments.size(), 2U);
  EXPECT_EQ(view.segments[1].input, &memory[2]);
  EXPECT_EQ(view.segments[1].rows, 2U);
  EXPECT_EQ(merged.rows(), 5U);
  ASSERT_EQ(view.groups.size(), 2U);
  EXPECT_EQ(view.groups[0].slot, slot_index{80});
  EXPECT_EQ((std::vector<std::uint32_t>{view.groups[0].rows.begin(), view.groups[0].rows.end()}),
            (std::vector<std::uint32_t>{1, 3, 4}));
  EXPECT_EQ((std::vector<float>{view.groups[0].gate_weights.begin(), view.groups[0].gate_weights.end()}),
            (std::vector<float>{1.0F, 2.0F, 3.0F}));
  EXPECT_EQ(view.groups[1].slot, slot_index{70});
  EXPECT_EQ(merged.groups()[0].rows, 3U);
  EXPECT_EQ(merged.groups()[0].calls, 2U);
  EXPECT_EQ(merged.groups()[1].expert.index, 9U);
}

TEST(merged_batch, two_versions_of_an_expert_are_two_groups) {
  auto call = call_with({{4, {1}, 1}}, {0}, {1.0F}, 1);
  merged_batch merged;
  auto a = merged.add_rows(nullptr, nullptr, 1);
  auto b = merged.add_rows(nullptr, nullptr, 1);
  merged.add_expert(a, call, 0, 1, {call.layer, 4}, {1});
  merged.add_expert(b, call, 0, 1, {call.layer, 4}, {2});
  EXPECT_EQ(merged.view({}).groups.size(), 2U);
}

}  // namespace
}  // namespace troupe::expert
