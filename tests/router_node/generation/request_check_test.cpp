// What a request for text may say.
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "router_node/core/generation/request_check.hpp"

namespace troupe::router {
namespace {

using ::testing::StartsWith;

constexpr generation_limits model{.vocabulary = 100, .context_tokens = 32};

generation_request good() {
  generation_request request;
  request.prompt = {1, 2, 3};
  request.max_tokens = 29;
  return request;
}

struct refusal {
  const char* begins;  // the error's text
  void (*spoil)(generation_request&);
};

class request_check : public ::testing::TestWithParam<refusal> {};

TEST_P(request_check, names_the_field) {
  auto request = good();
  GetParam().spoil(request);
  const auto fine = check(request, model);
  ASSERT_FALSE(fine);
  EXPECT_EQ(fine.error().code, errc::invalid_request);
  EXPECT_THAT(fine.error().message, StartsWith(GetParam().begins));
}

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

INSTANTIATE_TEST_SUITE_P(
    fields, request_check,
    ::testing::Values(refusal{"prompt: it is empty", [](auto& r) { r.prompt.clear(); }},
                      refusal{"prompt: 32 tokens", [](auto& r) { r.prompt.assign(32, 1); }},
                      refusal{"prompt[1]: no token 100", [](auto& r) { r.prompt[1] = 100; }},
                      refusal{"max_tokens: 0", [](auto& r) { r.max_tokens = 0; }},
                      refusal{"max_tokens: 30, but 3 tokens of prompt leave 29", [](auto& r) { r.max_tokens = 30; }},
                      refusal{"resumed: 30 tokens", [](auto& r) { r.resumed.assign(30, 1); }},
                      refusal{"resumed[0]: no token 200", [](auto& r) { r.resumed = {200}; }},
                      refusal{"temperature", [](auto& r) { r.sampling.temperature = -0.5F; }},
                      refusal{"temperature", [](auto& r) { r.sampling.temperature = nan; }},
                      refusal{"temperature", [](auto& r) { r.sampling.temperature = 2.5F; }},
                      refusal{"top_p", [](auto& r) { r.sampling.top_p = 0; }},
                      refusal{"top_p", [](auto& r) { r.sampling.top_p = 1.5F; }},
                      refusal{"min_p", [](auto& r) { r.sampling.min_p = nan; }},
                      refusal{"repetition_penalty", [](auto& r) { r.sampling.repetition_penalty = 0; }},
                      refusal{"presence_penalty", [](auto& r) { r.sampling.presence_penalty = 2.5F; }},
                      refusal{"frequency_penalty", [](auto& r) { r.sampling.frequency_penalty = -3; }},
                      refusal{"logit_bias: no token 100", [](auto& r) { r.sampling.logit_bias[100] = 1; }},
                      refusal{"logit_bias of token 7: 101", [](auto& r) { r.sampling.logit_bias[7] = 101; }},
                      refusal{"top_logprobs: 21", [](auto& r) { r.top_logprobs = 21; }},
                      refusal{"stop: 17 strings", [](auto& r) { r.stop.assign(17, "x"); }},
                      refusal{"stop[1]: 0 bytes",
                              [](auto& r) {
                                r.stop = {"a", ""};
                              }},
                      refusal{"stop[0]: 1025 bytes", [](auto& r) { r.stop = {std::string(1025, 'x')}; }},
                      refusal{"stop_token_ids[0]: no token 100", [](auto& r) { r.stop_token_ids = {100}; }}));

TEST(request_check, takes_the_extremes) {
  auto request = good();
  auto& sampling = request.sampling;
  sampling.temperature = 0;
  sampling.min_p = 1;
  sampling.presence_penalty = -2;
  sampling.frequency_penalty = 2;
  sampling.seed = ~0ULL;
  sampling.logit_bias = {{0, -100}, {99, 100}};
  request.resumed.assign(29, 99);
  request.stop.assign(limits::stop_strings_max, "\n");
  EXPECT_TRUE(check(request, model));
}

TEST(request_check, room_is_what_the_prompt_leaves) {
  EXPECT_EQ(room_for_answer(3, model), 29U);
  EXPECT_EQ(room_for_answer(32, model), 0U);
  EXPECT_EQ(room_for_answer(1'000'000, model), 0U);
}

TEST(request_check, timeouts_are_bounded) {
  EXPECT_EQ(generation_timeout(0), limits::generation_timeout_default);
  EXPECT_EQ(generation_timeout(5), std::chrono::milliseconds(5));
  EXPECT_EQ(generation_timeout(~0ULL), limits::generation_timeout_max);
}

}  // namespace
}  // namespace troupe::router
