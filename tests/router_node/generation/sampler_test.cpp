// The sampler against transformers' processors and warpers (sampling_data.json, made by make_sampling_data.py), and its
// draws against the distributions they say.
#include "router_node/core/generation/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "router_node/core/generation/logits.hpp"

namespace troupe::router {
namespace {

struct sampling_case {
  std::string name;
  sampling_settings settings;
  std::vector<float> logits;
  std::vector<token_number> prompt, answer;
  std::vector<double> logprobs, probabilities;
  std::vector<token_number> kept;  // what no cut took away
  token_number argmax{};
};

sampling_settings settings_of(const nlohmann::json& j) {
  sampling_settings s;
  s.temperature = j.value("temperature", s.temperature);
  s.top_k = j.value("top_k", s.top_k);
  s.top_p = j.value("top_p", s.top_p);
  s.min_p = j.value("min_p", s.min_p);
  s.repetition_penalty = j.value("repetition_penalty", s.repetition_penalty);
  s.presence_penalty = j.value("presence_penalty", s.presence_penalty);
  s.frequency_penalty = j.value("frequency_penalty", s.frequency_penalty);
  if (j.contains("logit_bias")) {
    for (const auto& bias : j["logit_bias"]) s.logit_bias[bias[0]] = bias[1];
  }
  return s;
}

std::vector<sampling_case> recorded_cases() {
  std::ifstream file(TROUPE_SOURCE_DIR "/tests/router_node/generation/sampling_data.json");
  const auto document = nlohmann::json::parse(file);
  std::vector<sampling_case> cases;
  for (const auto& j : document["cases"]) {
    cases.push_back({j["settings"].dump(), settings_of(j["settings"]), j["logits"], j["prompt"], j["answer"],
                     j["logprobs"], j["probabilities"], j["kept"], j["argmax"]});
  }
  return cases;
}

// How often each token comes up under `draws` seeds.
std::vector<std::uint32_t> count_draws(const sampling_case& c, std::uint32_t draws) {
  sampler chooser;
  auto logits = c.logits;
  auto settings = c.settings;
  std::vector<std::uint32_t> counts(logits.size());
  for (std::uint32_t seed = 0; seed < draws; ++seed) {
    settings.seed = seed;
    const auto sampled = chooser.sample(logits, settings, c.prompt, c.answer, std::nullopt);
    EXPECT_TRUE(sampled);
    if (sampled) ++counts[sampled->id];
  }
  EXPECT_EQ(logits, c.logits) << "the logits are as they were";
  return counts;
}

// Pearson's chi-square in standard deviations above its mean (Wilson-Hilferty). Rare tokens count as one.
double chi_square_deviation(const std::vector<std::uint32_t>& counts, const std::vector<double>& probabilities,
                            double draws) {
  double statistic = 0, rare_wanted = 0, rare_seen = 0;
  int cells = 0;
  const auto add = [&](double wanted, double seen) {
    statistic += (seen - wanted) * (seen - wanted) / wanted;
    ++cells;
  };
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto wanted = probabilities[i] * draws;
    if (wanted >= 5) {
      add(wanted, counts[i]);
    } else {
      rare_wanted += wanted;
      rare_seen += counts[i];
    }
  }
  if (rare_wanted >= 5) add(rare_wanted, rare_seen);
  if (cells < 2) return 0;
  const double freedom = cells - 1;
  const double spread = 2 / (9 * freedom);
  return (std::cbrt(statistic / freedom) - (1 - spread)) / std::sqrt(spread);
}

TEST(sampler, draws_from_the_distribution_of_the_reference) {
  constexpr std::uint32_t draws = 20'000;
  for (const auto& c : recorded_cases()) {
    SCOPED_TRACE(c.name);
    const auto counts = count_draws(c, c.settings.temperature == 0 ? 1 : draws);
    if (c.settings.temperature == 0) {
      EXPECT_EQ(counts[c.argmax], 1U);
      continue;
    }
    for (token_number id = 0; id < counts.size(); ++id) {
      EXPECT_TRUE(counts[id] == 0 || std::ranges::binary_search(c.kept, id)) << "token " << id << " was cut";
    }
    EXPECT_LT(chi_square_deviation(counts, c.probabilities, draws), 3.5);
  }
}

TEST(sampler, chi_square_finds_a_wrong_distribution) {
  auto cases = recorded_cases();
  const auto counts = count_draws(cases[0], 20'000);
  EXPECT_GT(chi_square_deviation(counts, cases[1].probabilities, 20'000), 3.5);
}

TEST(sampler, logprobs_are_of_the_unchanged_distribution) {
  sampler chooser;
  for (const auto& c : recorded_cases()) {
    SCOPED_TRACE(c.name);
    auto logits = c.logits;
    const auto sampled = chooser.sample(logits, c.settings, c.prompt, c.answer, 5);
    ASSERT_TRUE(sampled);
    EXPECT_NEAR(sampled->logprob, c.logprobs[sampled->id], 2e-6);
    auto order = c.logprobs;
    std::ranges::sort(order, std::greater{});
    ASSERT_EQ(sampled->top.size(), 5U);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(sampled->top[i].logprob, order[i], 2e-6);
      EXPECT_NEAR(sampled->top[i].logprob, c.logprobs[sampled->top[i].id], 2e-6);
    }
  }
}

TEST(sampler, prompt_logprobs_begin_with_the_token_itself) {
  const std::vector<float> logits{0, 2, 1};
  const auto row = log_probabilities(logits, 0, 2);
  ASSERT_TRUE(row);
  ASSERT_EQ(row->size(), 3U);
  EXPECT_EQ((*row)[0].id, 0U);
  EXPECT_EQ((*row)[1].id, 1U);
  EXPECT_EQ((*row)[2].id, 2U);
  EXPECT_NEAR((*row)[0].logprob, -std::log(1 + std::exp(2.0) + std::exp(1.0)), 1e-6);
}

TEST(sampler, greedy_takes_the_lower_of_equals) {
  std::vector<float> logits(40, -1.0F);
  logits[7] = logits[23] = 3.0F;
  sampling_settings greedy;
  greedy.temperature = 0;
  EXPECT_EQ(sampler{}.sample(logits, greedy, {}, {}, std::nullopt)->id, 7U);
}

TEST(sampler, a_draw_depends_on_seed_and_position_only) {
  std::vector<float> logits(1000);
  std::mt19937_64 random(3);
  for (auto& x : logits) x = std::normal_distribution<float>(0, 1)(random);
  sampling_settings settings;
  settings.seed = 99;
  sampler used, fresh;
  std::vector<token_number> answer;
  std::set<token_number> different;
  for (int position = 0; position < 50; ++position) {
    const auto first = used.sample(logits, settings, {}, answer, 3)->id;
    EXPECT_EQ(fresh.sample(logits, settings, std::vector<token_number>{1, 2}, answer, std::nullopt)->id, first);
    different.insert(first);
    answer.push_back(first);
  }
  EXPECT_GT(different.size(), 30U) << "positions are independent";
  settings.seed = 100;
  int same = 0;
  for (std::size_t n = 0; n < answer.size(); ++n) {
    same += used.sample(logits, settings, {}, std::span(answer).first(n), std::nullopt)->id == answer[n];
  }
  EXPECT_LT(same, 5) << "seeds are independent";
}

// What makes a stream that goes on at another router the same text: rounding differences hardly ever change the pick.
TEST(sampler, small_differences_of_the_logits_rarely_change_the_pick) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> logits(5000), shifted(5000);
  sampling_settings settings;
  sampler chooser;
  int changed = 0;
  for (int round = 0; round < 2000; ++round) {
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits[i] = 2 * normal(random);
      shifted[i] = logits[i] + 1e-4F * normal(random);
    }
    settings.seed = static_cast<std::uint64_t>(round);
    changed += chooser.sample(logits, settings, {}, {}, std::nullopt)->id !=
               chooser.sample(shifted, settings, {}, {}, std::nullopt)->id;
  }
  EXPECT_LE(changed, 2);
}

TEST(sampler, refuses_numbers_that_are_none) {
  sampler chooser;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    std::vector<float> logits(100, 1.0F);
    logits[63] = bad;
    for (const float temperature : {0.0F, 1.0F}) {
      sampling_settings settings;
      settings.temperature = temperature;
      const auto sampled = chooser.sample(logits, settings, {}, {}, 0);
      ASSERT_FALSE(sampled);
      EXPECT_EQ(sampled.error().code, errc::internal);
      EXPECT_NE(sampled.error().message.find("token 63"), std::string::npos) << sampled.error().message;
    }
    EXPECT_FALSE(log_probabilities(logits, 0, 1));
  }
}

TEST(sampler, extreme_settings_still_give_a_token) {
  sampler chooser;
  std::vector<float> logits{3e38F, -3e38F, 0, 1};
  for (const float temperature : {1e-4F, 1e-30F, 100.0F}) {
    sampling_settings settings;
    settings.temperature = temperature;
    settings.top_p = 1e-6F;
    settings.min_p = 1;
    settings.repetition_penalty = 1e-30F;
    settings.logit_bias = {{2, -100.0F}, {1000, 5.0F}};
    const std::vector<token_number> tokens{0, 1, 999};
    const auto sampled = chooser.sample(logits, settings, tokens, tokens, 20);
    ASSERT_TRUE(sampled);
    EXPECT_EQ(sampled->id, 0U);
    EXPECT_EQ(sampled->top.size(), 4U);
  }
}

// The fast paths for large vocabularies against the definition: a full sort.
TEST(sampler, cuts_of_a_large_vocabulary_equal_a_full_sort) {
  std::mt19937_64 random(8);
  sampler chooser;
  for (const float spread : {0.01F, 1.0F, 5.0F}) {
    std::vector<float> logits(20'000);
    for (auto& x : logits) x = std::normal_distribution<float>(0, spread)(random);
    std::vector<token_number> order(logits.size());
    for (token_number id = 0; id < order.size(); ++id) order[id] = id;
    std::ranges::sort(order, std::greater{}, [&](token_number id) { return logits[id]; });
    double total = 0, sum = 0;
    for (const float x : logits) total += std::exp(static_cast<double>(x));
    std::size_t nucleus = 0;
    while (sum < 0.7 * total) sum += std::exp(static_cast<double>(logits[order[nucleus++]]));
    sampling_settings settings;
    settings.top_p = 0.7F;
    // What is in the nucleus may come, what is behind it (and one more for rounding) never.
    const std::set<token_number> allowed(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(nucleus + 1));
    std::set<token_number> seen;
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      settings.seed = seed;
      const auto id = chooser.sample(logits, settings, {}, {}, std::nullopt)->id;
      EXPECT_TRUE(allowed.contains(id));
      seen.insert(id);
    }
    EXPECT_GT(seen.size(), std::min<std::size_t>(100, nucleus / 20));
    EXPECT_EQ(largest_logits(logits, 300), std::vector<token_number>(order.begin(), order.begin() + 300));
  }
}

TEST(logits, sum_of_exponentials_is_exact_to_single_precision) {
  std::mt19937_64 random(9);
  for (const std::size_t n : {1U, 15U, 16U, 1000U, 150'001U}) {
    std::vector<float> logits(n);
    for (auto& x : logits) x = std::normal_distribution<float>(0, 8)(random);
    const float largest = logits[largest_logit(logits)];
    EXPECT_EQ(largest, std::ranges::max(logits));
    double exact = 0;
    for (const float x : logits) exact += std::exp((static_cast<double>(x) - largest) * 0.7);
    EXPECT_NEAR(sum_of_exponentials(logits, largest, 0.7F) / exact, 1, 1e-6) << n;
  }
}

}  // namespace
}  // namespace troupe::router
