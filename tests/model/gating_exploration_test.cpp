// Rows that try cold experts: which ones, at what price, and with which weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "model/gating.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;

gating plain_gate(score_function score, std::uint32_t experts, std::uint32_t k) {
  gating gate;
  gate.score = score;
  gate.num_experts = experts;
  gate.top_k = k;
  return gate;
}

TEST(gating_exploration, the_last_place_goes_to_the_nearest_cold_expert_within_the_bound) {
  // Probabilities 0.4, 0.3, 0.2, 0.1.
  const std::vector<float> logits{std::log(4.0F), std::log(3.0F), std::log(2.0F), 0};
  const auto gate = plain_gate(score_function::softmax, 4, 2);
  const std::vector<std::uint8_t> cold{0, 0, 1, 1};
  const auto near = choose_experts(gate, {}, logits, {}, {cold, 0.11F});
  EXPECT_THAT(near->expert_ids, ElementsAre(0, 2));
  EXPECT_THAT(near->weights, ElementsAre(FloatNear(0.4F, 1e-6F), FloatNear(0.2F, 1e-6F)))
      << "as the family weighs them";
  EXPECT_THAT(near->explored, ElementsAre(1));
  const auto far = choose_experts(gate, {}, logits, {}, {cold, 0.09F});
  EXPECT_THAT(far->expert_ids, ElementsAre(0, 1));
  EXPECT_THAT(far->explored, ElementsAre(0));
  const std::vector<std::uint8_t> only_last{0, 0, 0, 1};
  EXPECT_THAT(choose_experts(gate, {}, logits, {}, {only_last, 0.21F})->expert_ids, ElementsAre(0, 3));
  const std::vector<std::uint8_t> chosen_already{0, 1, 1, 0};
  EXPECT_THAT(choose_experts(gate, {}, logits, {}, {chosen_already, 0.2F})->explored, ElementsAre(0));
  const std::vector<std::uint8_t> without_2{1, 1, 0, 1};
  EXPECT_THAT(choose_experts(gate, {}, logits, without_2, {cold, 0.26F})->expert_ids, ElementsAre(0, 3))
      << "of 8 parts 3 and 1";
  EXPECT_THAT(choose_experts(gate, {}, logits, without_2, {cold, 0.24F})->expert_ids, ElementsAre(0, 1));
  EXPECT_THAT(choose_experts(gate, {}, logits)->explored, ::testing::IsEmpty());
}

TEST(gating_exploration, probabilities_of_other_scores) {
  // sigmoid: 0.8, 0.6, 0.5, 0.1 of 2 together.
  std::vector<float> logits;
  for (float p : {0.8F, 0.6F, 0.5F, 0.1F}) logits.push_back(std::log(p / (1 - p)));
  const std::vector<std::uint8_t> cold{0, 0, 1, 0};
  const auto sigmoid = plain_gate(score_function::sigmoid, 4, 2);
  EXPECT_THAT(choose_experts(sigmoid, {}, logits, {}, {cold, 0.051F})->expert_ids, ElementsAre(0, 2));
  EXPECT_THAT(choose_experts(sigmoid, {}, logits, {}, {cold, 0.049F})->expert_ids, ElementsAre(0, 1));
  const std::vector<float> raw{std::log(4.0F), std::log(3.0F), std::log(2.0F), 0};
  const auto gpt = plain_gate(score_function::softmax_of_top_k, 4, 2);
  const auto tried = choose_experts(gpt, {}, raw, {}, {cold, 0.101F});
  EXPECT_THAT(tried->expert_ids, ElementsAre(0, 2));
  EXPECT_THAT(tried->weights, ElementsAre(FloatNear(4.0F / 6, 1e-6F), FloatNear(2.0F / 6, 1e-6F)));
  EXPECT_THAT(choose_experts(gpt, {}, raw, {}, {cold, 0.099F})->expert_ids, ElementsAre(0, 1));
}

TEST(gating_exploration, a_row_never_loses_more_than_the_bound_and_keeps_its_other_experts) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const auto gate = plain_gate(score_function::softmax, 16, 4);
  std::vector<float> logits(16 * 500);
  for (auto& value : logits) value = normal(random);
  std::vector<std::uint8_t> cold(16);
  for (auto e : {3, 8, 11}) cold[static_cast<std::size_t>(e)] = 1;
  const auto exact = choose_experts(gate, {}, logits);
  const auto tried = choose_experts(gate, {}, logits, {}, {cold, 0.02F});
  std::size_t explored = 0;
  for (std::size_t row = 0; row < 500; ++row) {
    const auto* was = &exact->expert_ids[row * 4];
    const auto* is = &tried->expert_ids[row * 4];
    EXPECT_TRUE(std::equal(was, was + 3, is)) << row;
    EXPECT_EQ(tried->explored[row] != 0, was[3] != is[3]);
    if (was[3] == is[3]) continue;
    ++explored;
    EXPECT_EQ(cold[static_cast<std::size_t>(is[3])], 1);
    EXPECT_LE(exact->weights[row * 4 + 3] - tried->weights[row * 4 + 3], 0.02F);
  }
  EXPECT_GT(explored, 20U);
}

TEST(gating_exploration, a_gate_with_a_capacity_does_not_explore) {
  auto gate = plain_gate(score_function::softmax, 4, 1);
  EXPECT_TRUE(check_exploration(gate));
  gate.capacity.order = fill_order::token;
  EXPECT_EQ(check_exploration(gate).error().code, errc::conflict);
}

}  // namespace
}  // namespace troupe::model
