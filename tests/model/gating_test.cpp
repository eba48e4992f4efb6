// Gating against a second, naive implementation over random gates, and the rules that only show at the edges.
#include "model/gating.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

namespace troupe::model {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;

constexpr double weight_tolerance = 1e-5;

// -- the naive implementation: f64, sets and exhaustive search, nothing shared with the product
// ---------------------------

struct naive_choice {
  std::vector<std::size_t> experts;  // best first
  std::vector<double> weights;
};

std::vector<std::size_t> by_score(std::vector<std::size_t> ids, const std::vector<double>& score) {
  std::sort(ids.begin(), ids.end(), [&](auto a, auto b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  return ids;
}

// All ways to keep `count` of `groups` groups; the best is the one whose ranks come first in lexicographic order.
std::vector<std::size_t> best_groups(const gating& g, const std::vector<double>& choice,
                                     const std::vector<bool>& present) {
  auto size = g.num_experts / g.num_groups;
  std::vector<double> score(g.num_groups, -std::numeric_limits<double>::infinity());
  std::vector<std::size_t> members(g.num_groups);
  for (std::size_t group = 0; group < g.num_groups; ++group) {
    std::vector<double> values;
    for (auto e = group * size; e < (group + 1) * size; ++e) {
      if (present[e]) values.push_back(choice[e]);
    }
    std::sort(values.rbegin(), values.rend());
    members[group] = values.size();
    auto terms = std::min<std::size_t>(values.size(), g.groups == group_score::max ? 1 : 2);
    if (terms > 0)
      score[group] = std::accumulate(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(terms), 0.0);
  }
  std::vector<std::size_t> all(g.num_groups);
  std::iota(all.begin(), all.end(), 0U);
  auto ranked = by_score(all, score);
  std::vector<std::size_t> best;
  for (std::uint32_t subset = 0; subset < 1U << g.num_groups; ++subset) {
    std::vector<std::size_t> ranks;
    std::size_t reach = 0;
    for (std::size_t rank = 0; rank < ranked.size(); ++rank) {
      if ((subset >> rank & 1U) == 0) continue;
      ranks.push_back(rank);
      reach += members[ranked[rank]];
    }
    if (ranks.size() == g.top_k_groups && reach >= g.top_k && (best.empty() || ranks < best)) best = ranks;
  }
  for (auto& rank : best) rank = ranked[rank];
  return best;
}

std::optional<naive_choice> naive(const gating& g, std::span<const float> bias, std::span<const float> logits,
                                  const std::vector<bool>& present) {
  std::vector<double> score(g.num_experts);
  double sum = 0;
  for (std::size_t e = 0; e < score.size(); ++e) sum += present[e] ? std::exp(double{logits[e]}) : 0;
  for (std::size_t e = 0; e < score.size(); ++e) {
    score[e] = g.score == score_function::softmax   ? std::exp(double{logits[e]}) / sum
               : g.score == score_function::sigmoid ? 1 / (1 + std::exp(-double{logits[e]}))
                                                    : double{logits[e]};
  }
  auto choice = score;
  for (std::size_t e = 0; e < bias.size(); ++e) choice[e] += bias[e];
  std::vector<std::size_t> selectable;
  auto kept = g.groups == group_score::none ? std::vector<std::size_t>{} : best_groups(g, choice, present);
  for (std::size_t e = 0; e < score.size(); ++e) {
    bool in_kept = g.groups == group_score::none || std::ranges::count(kept, e / (g.num_experts / g.num_groups)) > 0;
    if (present[e] && in_kept) selectable.push_back(e);
  }
  if (selectable.size() < g.top_k) return std::nullopt;
  naive_choice out{by_score(selectable, choice), {}};
  out.experts.resize(g.top_k);
  for (auto e : out.experts) out.weights.push_back(score[e]);
  if (g.score == score_function::softmax_of_top_k) {
    for (double& w : out.weights) w = std::exp(w);
  }
  if (g.score == score_function::softmax_of_top_k || g.renorm == renormalise::always) {
    auto total = std::accumulate(out.weights.begin(), out.weights.end(), g.renorm_epsilon);
    for (double& w : out.weights) w /= total;
  }
  for (double& w : out.weights) w *= g.scale;
  return out;
}

// -- random gates
// -----------------------------------------------------------------------------------------------------------

struct random_case {
  gating gate;
  std::vector<float> bias;
  std::vector<float> logits;
  std::size_t rows{};
};

class generator {
 public:
  explicit generator(std::uint64_t seed) : random_(seed) {}

  std::uint32_t between(std::uint32_t low, std::uint32_t high) {
    return std::uniform_int_distribution{low, high}(random_);
  }

  std::vector<float> normals(std::size_t count, float deviation, float mean = 0) {
    std::normal_distribution<float> normal{mean, deviation};
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  random_case make() {
    random_case c;
    auto& g = c.gate;
    g.num_groups = between(1, 6);
    g.num_experts = g.num_groups * between(1, 5);
    g.score = static_cast<score_function>(between(0, 2));
    g.renorm = static_cast<renormalise>(between(0, 1));
    g.scale = between(0, 1) == 0 ? 1.0 : 2.5;
    g.groups = static_cast<group_score>(between(0, 2));
    g.top_k_groups = between(1, g.num_groups);
    if (g.groups == group_score::none) g.num_groups = g.top_k_groups = 1;
    g.top_k = between(1, g.num_experts / g.num_groups * g.top_k_groups);
    if (g.score == score_function::sigmoid) {
      g.renorm_epsilon = 1e-20;
      c.bias = normals(g.num_experts, 0.5F, -1.0F);  // mostly negative: kept scores below 0
    }
    c.rows = between(0, 6);
    c.logits = normals(c.rows * g.num_experts, 2.0F);
    return c;
  }

  std::vector<std::uint8_t> mask(std::uint32_t experts) {
    std::vector<std::uint8_t> bits(experts);
    for (auto& bit : bits) bit = between(0, 3) == 0 ? 0 : 1;
    return bits;
  }

 private:
  std::mt19937_64 random_;
};

void expect_as_naive(const random_case& c, const std::vector<std::uint8_t>& mask) {
  std::vector<bool> present(c.gate.num_experts, true);
  for (std::size_t e = 0; e < mask.size(); ++e) present[e] = mask[e] != 0;
  auto chosen = choose_experts(c.gate, c.bias, c.logits, mask);
  for (std::size_t row = 0; row < c.rows; ++row) {
    auto expected =
        naive(c.gate, c.bias, std::span{c.logits}.subspan(row * c.gate.num_experts, c.gate.num_experts), present);
    ASSERT_EQ(chosen.has_value(), expected.has_value());
    if (!expected) return;
    for (std::size_t i = 0; i < c.gate.top_k; ++i) {
      auto place = row * c.gate.top_k + i;
      ASSERT_EQ(chosen->expert_ids[place], static_cast<std::int32_t>(expected->experts[i]))
          << "row " << row << " rank " << i;
      ASSERT_NEAR(chosen->weights[place], expected->weights[i], weight_tolerance);
    }
  }
  if (!chosen) return;
  EXPECT_EQ(chosen->expert_ids.size(), c.rows * c.gate.top_k);
}

TEST(gating_property, random_gates_choose_as_the_naive_implementation) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    expect_as_naive(generator{seed}.make(), {});
    if (HasFatalFailure()) return;
  }
}

TEST(gating_property, random_gates_under_masks_choose_as_the_naive_implementation) {
  int refused = 0;
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    generator random{seed};
    auto c = random.make();
    auto mask = random.mask(c.gate.num_experts);
    expect_as_naive(c, mask);
    if (HasFatalFailure()) return;
    refused += choose_experts(c.gate, c.bias, c.logits, mask) ? 0 : 1;
  }
  EXPECT_GT(refused, 300);
  EXPECT_LT(refused, 2700);
}

TEST(gating_property, a_mask_gives_what_a_model_without_those_experts_gives) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(seed);
    generator random{seed};
    auto c = random.make();
    c.gate.groups = group_score::none;  // a smaller model has no equal groups
    c.gate.num_groups = c.gate.top_k_groups = 1;
    auto mask = random.mask(c.gate.num_experts);
    random_case smaller;
    smaller.gate = c.gate;
    std::vector<std::int32_t> old_id;
    for (std::uint32_t e = 0; e < mask.size(); ++e) {
      if (mask[e] == 0) continue;
      old_id.push_back(static_cast<std::int32_t>(e));
      if (!c.bias.empty()) smaller.bias.push_back(c.bias[e]);
    }
    smaller.gate.num_experts = static_cast<std::uint32_t>(old_id.size());
    if (old_id.size() < c.gate.top_k) continue;
    for (std::size_t row = 0; row < c.rows; ++row) {
      for (auto e : old_id) smaller.logits.push_back(c.logits[row * c.gate.num_experts + static_cast<std::size_t>(e)]);
    }
    auto masked = choose_experts(c.gate, c.bias, c.logits, mask);
    auto without = choose_experts(smaller.gate, smaller.bias, smaller.logits);
    ASSERT_TRUE(masked && without);
    for (auto& id : without->expert_ids) id = old_id[static_cast<std::size_t>(id)];
    EXPECT_EQ(masked->expert_ids, without->expert_ids);
    EXPECT_EQ(masked->weights, without->weights);
  }
}

// -- gates to begin with
// ------------------------------------------------------------------------------------------------------------

gating plain(std::uint32_t experts, std::uint32_t top_k) {
  gating g;
  g.num_experts = experts;
  g.top_k = top_k;
  return g;
}

// DeepSeek-V3: 3 groups of 2, the best one kept.
gating grouped(std::uint32_t top_k, std::uint32_t kept) {
  auto g = plain(6, top_k);
  g.score = score_function::sigmoid;
  g.groups = group_score::sum_of_two_largest;
  g.num_groups = 3;
  g.top_k_groups = kept;
  return g;
}

// -- group limits
// ------------------------------------------------------------------------------------------------------------

description one_layer(const gating& gate) {
  description model;
  model.layers.push_back({.id = layer_id::of(3), .gate = gate, .shape = {}, .shared = {}, .experts = {}});
  return model;
}

struct limited_case {
  random_case whole;
  random_case limited;
  group_limit limit;
};

// A random gate without groups, cut into some; nullopt: the kept groups would hold too few experts.
std::optional<limited_case> make_limited(generator& random) {
  limited_case c{random.make(), {}, {}};
  auto& gate = c.whole.gate;
  const auto groups = gate.num_groups;
  gate.groups = group_score::none;
  gate.num_groups = gate.top_k_groups = 1;
  c.limit = {groups, random.between(1, groups)};
  c.limited = c.whole;
  auto gates = limit_groups(one_layer(gate), c.limit);
  const bool fits = gate.num_experts / groups * c.limit.kept >= gate.top_k;
  EXPECT_EQ(gates.has_value(), fits);
  if (!gates) return std::nullopt;
  c.limited.gate = gates->front();
  EXPECT_EQ(c.limited.gate.num_groups, groups);
  EXPECT_EQ(c.limited.gate.top_k_groups, c.limit.kept);
  return c;
}

TEST(gating_limit, rows_choose_as_the_naive_implementation_inside_groups_and_say_when_that_changed_their_choice) {
  std::size_t changed = 0;
  std::size_t same = 0;
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    generator random{seed};
    const auto c = make_limited(random);
    if (!c) continue;
    expect_as_naive(c->limited, {});
    if (HasFatalFailure()) return;
    const auto& whole = c->whole;
    const auto inside = choose_experts(c->limited.gate, whole.bias, whole.logits);
    const auto chosen = choose_limited(whole.gate, c->limited.gate, whole.bias, whole.logits);
    ASSERT_TRUE(inside && chosen);
    EXPECT_EQ(chosen->expert_ids, inside->expert_ids);
    EXPECT_EQ(chosen->weights, inside->weights);
    ASSERT_EQ(chosen->limited.size(), whole.rows);
    const auto n = whole.gate.num_experts;
    for (std::size_t row = 0; row < whole.rows; ++row) {
      const auto exact =
          naive(whole.gate, whole.bias, std::span{whole.logits}.subspan(row * n, n), std::vector<bool>(n, true));
      ASSERT_TRUE(exact);
      bool differs = false;
      for (std::size_t i = 0; i < exact->experts.size(); ++i) {
        const auto id = static_cast<std::size_t>(chosen->expert_ids[row * exact->experts.size() + i]);
        differs = differs || std::ranges::find(exact->experts, id) == exact->experts.end();
      }
      EXPECT_EQ(chosen->limited[row] != 0, differs) << "row " << row;
      ++(differs ? changed : same);
    }
  }
  EXPECT_GT(changed, 500U);
  EXPECT_GT(same, 500U);
}

TEST(gating_limit, as_many_groups_as_experts_of_a_row_change_nothing) {
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(seed);
    generator random{seed};
    const auto c = make_limited(random);
    if (!c || c->limit.kept < c->whole.gate.top_k) continue;
    const auto chosen = choose_limited(c->whole.gate, c->limited.gate, c->whole.bias, c->whole.logits);
    ASSERT_TRUE(chosen);
    EXPECT_THAT(chosen->limited, Each(0));
    EXPECT_EQ(chosen->expert_ids, choose_experts(c->whole.gate, c->whole.bias, c->whole.logits)->expert_ids);
  }
}

TEST(gating_limit, a_mask_that_leaves_too_few_experts_in_the_kept_groups_lifts_the_limit) {
  const auto whole = plain(4, 2);
  const auto gates = limit_groups(one_layer(whole), {2, 1});
  ASSERT_TRUE(gates);
  const std::vector<float> logits{4, 1, 3, 2};
  EXPECT_THAT(choose_limited(whole, gates->front(), {}, logits)->expert_ids, ElementsAre(0, 1));
  const std::vector<std::uint8_t> one_in_each{1, 0, 0, 1};
  const auto chosen = choose_limited(whole, gates->front(), {}, logits, one_in_each);
  ASSERT_TRUE(chosen);
  EXPECT_THAT(chosen->expert_ids, ElementsAre(0, 3));
  EXPECT_TRUE(chosen->limited.empty());
}

TEST(gating_limit, what_cannot_be_limited_is_refused_with_the_numbers) {
  const auto refusal = [](const gating& gate, group_limit limit) {
    const auto gates = limit_groups(one_layer(gate), limit);
    return gates ? error{} : gates.error();
  };
  const auto gate = plain(16, 4);
  EXPECT_TRUE(limit_groups(one_layer(gate), {}));
  EXPECT_TRUE(limit_groups(one_layer(gate), {8, 2}));
  const auto few = refusal(gate, {8, 1});
  EXPECT_EQ(few.code, errc::invalid_request);
  EXPECT_THAT(few.message, HasSubstr("layer 3 needs 4 experts for a row, and 2 are in the kept groups"));
  EXPECT_THAT(refusal(gate, {5, 2}).message, HasSubstr("layer 3 has 16 experts, not to be cut"));
  EXPECT_THAT(refusal(gate, {8, 0}).message, HasSubstr("needs 1 to 8 kept groups"));
  EXPECT_THAT(refusal(gate, {8, 9}).message, HasSubstr("needs 1 to 8 kept groups"));
  EXPECT_EQ(refusal(grouped(2, 1), {2, 1}).code, errc::conflict);
  auto dropping = gate;
  dropping.capacity.order = fill_order::token;
  EXPECT_EQ(refusal(dropping, {8, 2}).code, errc::conflict);
}

// -- edges
// ------------------------------------------------------------------------------------------------------------------

TEST(gating_choice, ties_go_to_the_lowest_index) {
  auto g = plain(5, 3);
  for (auto score : {score_function::softmax, score_function::sigmoid, score_function::softmax_of_top_k}) {
    g.score = score;
    EXPECT_THAT(choose_experts(g, {}, std::vector<float>{1, 2, 1, 2, 1})->expert_ids, ElementsAre(1, 3, 0));
    EXPECT_THAT(choose_experts(g, {}, std::vector<float>(5, 0.0F))->expert_ids, ElementsAre(0, 1, 2));
  }
}

TEST(gating_choice, huge_logits_do_not_overflow) {
  auto chosen = choose_experts(plain(3, 2), {}, std::vector<float>{3e38F, -3e38F, 3e38F});
  ASSERT_TRUE(chosen);
  EXPECT_THAT(chosen->expert_ids, ElementsAre(0, 2));
  EXPECT_THAT(chosen->weights, ElementsAre(0.5F, 0.5F));
}

TEST(gating_choice, logits_that_are_not_finite_are_refused_naming_the_row) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto chosen = choose_experts(plain(2, 1), {}, std::vector<float>{0, 1, 2, bad});
    ASSERT_FALSE(chosen);
    EXPECT_EQ(chosen.error().code, errc::invalid_request);
    EXPECT_THAT(chosen.error().message, HasSubstr("row 1"));
  }
}

TEST(gating_choice, no_rows_give_an_empty_routing) {
  auto chosen = choose_experts(plain(4, 2), {}, {});
  ASSERT_TRUE(chosen);
  EXPECT_EQ(chosen->top_k, 2U);
  EXPECT_TRUE(chosen->expert_ids.empty());
}

TEST(gating_choice, too_few_present_experts_are_unavailable) {
  std::vector<std::uint8_t> mask{1, 0, 0, 1, 0};
  auto chosen = choose_experts(plain(5, 3), {}, std::vector<float>(5), mask);
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().code, errc::unavailable);
  EXPECT_THAT(chosen.error().message, HasSubstr("2 of 5 experts"));
}

TEST(gating_groups, experts_outside_kept_groups_are_never_chosen_even_when_kept_scores_are_negative) {
  std::vector<float> bias{-2, -2, -3, -3, -3, -3};
  auto chosen = choose_experts(grouped(2, 1), bias, std::vector<float>{0, 1, 3, 3, 3, 3});
  ASSERT_TRUE(chosen);
  EXPECT_THAT(chosen->expert_ids, ElementsAre(1, 0));  // masking with 0 would take experts 2 and 3
  EXPECT_THAT(chosen->weights, ElementsAre(FloatNear(0.7310586F, 1e-6F), FloatNear(0.5F, 1e-6F)));  // of s, not of c
}

TEST(gating_groups, the_score_of_a_group_is_its_two_largest_or_its_largest) {
  std::vector<float> logits{4, -9, 2, 2, -1, -1};  // group 0 has the largest one, group 1 the largest two
  auto g = grouped(1, 1);
  EXPECT_THAT(choose_experts(g, {}, logits)->expert_ids, ElementsAre(2));
  g.groups = group_score::max;
  EXPECT_THAT(choose_experts(g, {}, logits)->expert_ids, ElementsAre(0));
}

TEST(gating_groups, groups_of_one_expert_count_with_that_one) {
  auto g = grouped(2, 2);
  g.num_groups = 6;
  EXPECT_THAT(choose_experts(g, {}, std::vector<float>{0, 5, 1, 4, 2, 3})->expert_ids, ElementsAre(1, 3));
}

TEST(gating_groups, a_group_with_too_few_present_experts_is_passed_over) {
  std::vector<float> logits{9, 9, 1, 1, 0, 0};
  std::vector<std::uint8_t> mask{0, 1, 1, 1, 1, 1};
  EXPECT_THAT(choose_experts(grouped(1, 1), {}, logits, mask)->expert_ids,
              ElementsAre(2));  // 1 alone scores less than 2 + 3
  std::vector<float> negative{-1, -1, -1, -1, -1, -1};
  EXPECT_THAT(choose_experts(grouped(1, 1), negative, logits, mask)->expert_ids,
              ElementsAre(1));  // but -0.0001 > -0.54
  EXPECT_THAT(choose_experts(grouped(2, 1), negative, logits, mask)->expert_ids, ElementsAre(2, 3));
  EXPECT_THAT(choose_experts(grouped(4, 2), negative, logits, mask)->expert_ids, ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(choose_experts(grouped(3, 2), negative, logits, mask)->expert_ids, ElementsAre(1, 2, 3));
}

TEST(gating_masks, what_rows_lose_by_a_mask_is_counted_per_expert) {
  std::vector<float> logits{2, 1, 0, 0, /**/ 0, 0, 3, 0};
  std::vector<std::uint8_t> mask{0, 1, 0, 1};
  auto lost = look_behind_mask(plain(4, 2), {}, logits, mask);
  EXPECT_THAT(lost.rows, ElementsAre(2U, 0U, 1U, 0U)) << "equal scores: the lower index";
  const double first = std::exp(2.0) + std::exp(1.0) + 2;
  const double second = std::exp(3.0) + 3;
  EXPECT_NEAR(lost.mass[0], std::exp(2.0) / first + 1 / second, 1e-6);
  EXPECT_EQ(lost.mass[1], 0.0);
  EXPECT_NEAR(lost.mass[2], 1 / first + std::exp(3.0) / second, 1e-6);
}

TEST(gating_masks, the_probability_of_a_sigmoid_gate_is_its_share_of_all_scores) {
  auto gate = plain(2, 1);
  gate.score = score_function::sigmoid;
  std::vector<std::uint8_t> mask{0, 1};
  auto lost = look_behind_mask(gate, {}, std::vector<float>{0, 100}, mask);
  EXPECT_NEAR(lost.mass[0], 0.5 / 1.5, 1e-6);
  EXPECT_THAT(lost.rows, ElementsAre(0U, 0U));
}

TEST(gating_masks, too_few_experts_are_told_without_a_row) {
  std::vector<std::uint8_t> mask{1, 0, 0, 1, 0};
  EXPECT_TRUE(check_mask(plain(5, 2), mask));
  EXPECT_EQ(check_mask(plain(5, 3), mask).error().code, errc::unavailable);
  std::vector<std::uint8_t> one_per_group{1, 0, 1, 0, 1, 0};
  EXPECT_TRUE(check_mask(grouped(2, 2), one_per_group));
  EXPECT_FALSE(check_mask(grouped(2, 1), one_per_group));
}

TEST(gating_groups, unavailable_when_no_choice_of_groups_holds_enough) {
  std::vector<std::uint8_t> mask{0, 1, 0, 1, 1, 1};
  auto chosen = choose_experts(grouped(4, 2), {}, std::vector<float>(6), mask);
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().code, errc::unavailable);
  EXPECT_THAT(chosen.error().message, HasSubstr("3 of 6 experts can be chosen in 2 groups"));
}

// -- capacity
// -------------------------------------------------------------------------------------------------------------

// Every token's first choice is expert 0, its second one expert 1; strength falls and rises.
std::vector<float> crowd(const std::vector<float>& strengths) {
  std::vector<float> logits;
  for (float s : strengths) logits.insert(logits.end(), {s, s - 1, -9});
  return logits;
}

TEST(gating_capacity, token_order_drops_the_last_ones) {
  auto g = plain(3, 1);
  g.capacity = {fill_order::token, 2, 0};
  auto chosen = choose_experts(g, {}, crowd({1, 5, 3, 4}));
  EXPECT_THAT(chosen->dropped, ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(chosen->expert_ids, ElementsAre(0, 0, 0, 0));  // the choice stays visible
  EXPECT_GT(chosen->weights[3], 0.0F);
}

TEST(gating_capacity, all_first_choices_come_before_any_second_choice) {
  auto g = plain(2, 2);
  g.capacity = {fill_order::token, 2, 0};
  // first choices: 0, 1, 1; second choices: 1, 0, 0. Expert 1 is full before token 0's second choice.
  auto chosen = choose_experts(g, {}, std::vector<float>{1, 0, 0, 1, 0, 1});
  EXPECT_THAT(chosen->dropped, ElementsAre(0, 1, 0, 0, 0, 1));
}

TEST(gating_capacity, batch_priority_drops_the_weakest_and_keeps_token_order_among_equals) {
  auto g = plain(3, 1);
  g.capacity = {fill_order::batch_priority, 2, 0};
  std::vector<float> logits;
  for (float s : {0.0F, 2.0F, 1.0F, 2.0F, 2.0F}) logits.insert(logits.end(), {s, -1, -1});
  EXPECT_THAT(choose_experts(g, {}, logits)->dropped, ElementsAre(1, 0, 1, 0, 1));
}

TEST(gating_capacity, the_factor_rounds_half_to_even) {
  auto kept = [](std::size_t rows, double factor) {
    auto g = plain(2, 1);
    g.capacity = {fill_order::token, {}, factor};
    auto chosen = choose_experts(g, {}, [&] {
      std::vector<float> logits;
      for (std::size_t i = 0; i < rows; ++i) logits.insert(logits.end(), {1, 0});
      return logits;
    }());
    return std::ranges::count(chosen->dropped, 0);
  };
  EXPECT_EQ(kept(5, 1.0), 2);   // 2.5
  EXPECT_EQ(kept(7, 1.0), 4);   // 3.5
  EXPECT_EQ(kept(1, 1.0), 0);   // 0.5
  EXPECT_EQ(kept(3, 1.0), 2);   // 1.5
  EXPECT_EQ(kept(10, 0.7), 4);  // 3.5
  EXPECT_EQ(kept(4, 100.0), 4);
}

TEST(gating_capacity, families_without_one_report_no_drops) {
  EXPECT_TRUE(choose_experts(plain(3, 2), {}, std::vector<float>(9))->dropped.empty());
}

TEST(reference_logits, are_the_product_plus_the_bias) {
  gate_parameters parameters{{1, 2, 3, 4}, {10, 20}, {}};
  EXPECT_THAT(reference_logits(plain(2, 1), parameters, std::vector<float>{1, 1, 0, 2}, 2),
              ElementsAre(13, 27, 14, 28));
  parameters.bias.clear();
  EXPECT_THAT(reference_logits(plain(2, 1), parameters, std::vector<float>{1, 1}, 2), ElementsAre(3, 7));
}

}  // namespace
}  // namespace troupe::model
