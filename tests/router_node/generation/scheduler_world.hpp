// A scheduler with a fake model, driven step by step.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "router_node/core/generation/scheduler.hpp"
#include "tests/router_node/generation/fake_trunk.hpp"

namespace troupe::router::testing {

using namespace std::chrono_literals;

inline std::vector<token_number> text(std::uint32_t length, token_number first = 0) {
  std::vector<token_number> tokens(length);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A scheduler with a fake model. Steps are computed when they are committed.
class world {
 public:
  explicit world(const scheduler_options& options) : work(options), trunk(options.kv_blocks) {}

  result<void> try_add(std::uint64_t id, std::vector<token_number> prompt, std::uint32_t answers,
                       const std::string& client = "someone", bool wants_all_rows = false,
                       std::chrono::seconds patience = 1000s) {
    const auto length = static_cast<std::uint32_t>(prompt.size());
    auto added = work.add({id}, {prompt, length, wants_all_rows, client, now + patience}, now);
    if (added) texts[id] = {std::move(prompt), length, answers};
    return added;
  }
  void add(std::uint64_t id, std::vector<token_number> prompt, std::uint32_t answers,
           const std::string& client = "someone") {
    const auto added = try_add(id, std::move(prompt), answers, client);
    ASSERT_TRUE(added) << added.error().message;
  }

  std::optional<step_plan> plan() { return work.plan(now); }

  void commit(const step_plan& step, bool is_exact = true) {
    std::vector<step_outcome> outcomes;
    for (const auto& part : step.sequences) outcomes.push_back(compute(part, is_exact));
    work.commit(step.id, outcomes, now);
  }

  // One outcome for all.
  void commit_as(const step_plan& step, const step_outcome& outcome) {
    work.commit(step.id, std::vector<step_outcome>(step.sequences.size(), outcome), now);
  }

  // Plans and commits until nothing can be done. Returns the number of steps.
  int run(int steps_max = 100'000) {
    int steps = 0;
    while (steps < steps_max) {
      auto step = plan();
      if (!step) break;
      commit(*step);
      ++steps;
    }
    return steps;
  }

  [[nodiscard]] bool is_over(std::uint64_t id) const {
    const auto& t = texts.at(id);
    return t.tokens.size() == t.prompt + t.answers;
  }
  [[nodiscard]] bool is_right(std::uint64_t id) const {
    const auto& t = texts.at(id);
    const std::vector<token_number> prompt(t.tokens.begin(), t.tokens.begin() + t.prompt);
    const auto alone = fake_trunk::answer_alone(prompt, t.answers);
    return std::equal(t.tokens.begin() + t.prompt, t.tokens.end(), alone.begin(), alone.end());
  }

  struct growing_text {
    std::vector<token_number> tokens;
    std::uint32_t prompt{}, answers{};
  };
  time_point now{time_point{} + 1h};
  scheduler work;
  fake_trunk trunk;
  std::map<std::uint64_t, growing_text> texts;

 private:
  step_outcome compute(const planned_sequence& part, bool is_exact) {
    auto& t = texts.at(part.id.value);
    EXPECT_EQ(trunk.compute(part, t.tokens, true), "") << "sequence " << part.id.value;
    if (!part.samples) return rows_computed{is_exact};
    t.tokens.push_back(fake_trunk::next_token(t.tokens));
    return token_sampled{t.tokens.back(), is_over(part.id.value), is_exact};
  }
};

inline std::vector<std::uint64_t> ids_of(const step_plan& step) {
  std::vector<std::uint64_t> ids;
  for (const auto& part : step.sequences) ids.push_back(part.id.value);
  return ids;
}

inline std::uint32_t rows_of(const step_plan& step, std::uint64_t id) {
  std::uint32_t rows = 0;
  for (const auto& part : step.sequences) {
    if (part.id.value == id) rows += static_cast<std::uint32_t>(part.tokens.size());
  }
  return rows;
}

inline scheduler_options roomy() { return {.kv_blocks = 1000, .prefill_step_tokens = 64, .prefill_turn_tokens = 8}; }

}  // namespace troupe::router::testing
