// What `bench generate` makes of times, of a cluster that fails, and of server-sent events.
#include "cli/generate_bench.hpp"

#include <atomic>
#include <mutex>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/text_options.hpp"
#include "cli/token_sources.hpp"

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

TEST(summarise, counts_gaps_and_rates) {
  const bench_clock::time_point start{};
  // The second and third token of the first answer came together.
  const std::vector<request_times> answers{
      {start, {start + 100ms, start + 110ms, start + 110ms, start + 140ms}},
      {start + 50ms, {start + 250ms, start + 270ms}},
  };
  const auto row = summarise(2, answers, 500ms);
  EXPECT_EQ(row.concurrency, 2U);
  EXPECT_EQ(row.requests, 2U);
  EXPECT_EQ(row.output_tokens, 6U);
  EXPECT_DOUBLE_EQ(row.first_token.p99, 200);
  EXPECT_DOUBLE_EQ(row.between_tokens.p50, 20);  // of 0, 10, 20, 30
  EXPECT_DOUBLE_EQ(row.between_tokens.p99, 30);
  EXPECT_DOUBLE_EQ(row.whole.p99, 220);
  EXPECT_DOUBLE_EQ(row.output_tokens_per_second, 12);
  EXPECT_DOUBLE_EQ(row.requests_per_second, 4);
}

TEST(summarise, nothing_is_nothing) {
  const auto row = summarise(1, {}, 0s);
  EXPECT_EQ(row.output_tokens, 0U);
  EXPECT_EQ(row.first_token.p50, 0);
  EXPECT_EQ(row.output_tokens_per_second, 0);
}

// Answers at once; every fourth request fails.
struct fake_cluster {
  std::mutex mutex;
  std::vector<std::vector<std::uint32_t>> prompts;
  std::atomic<int> asked{0};
};

class fake_source final : public token_source {
 public:
  explicit fake_source(fake_cluster& cluster) : cluster_(cluster) {}
  [[nodiscard]] result<void> ask(std::span<const std::uint32_t> prompt, std::uint32_t output_tokens,
                                 const std::function<void(std::uint32_t)>& on_tokens) override {
    {
      const std::lock_guard lock(cluster_.mutex);
      cluster_.prompts.emplace_back(prompt.begin(), prompt.end());
    }
    if (cluster_.asked.fetch_add(1) % 4 == 3) return fail(errc::unavailable, "no such luck");
    for (std::uint32_t i = 0; i < output_tokens; ++i) on_tokens(1);
    return {};
  }

 private:
  fake_cluster& cluster_;
};

TEST(generate_bench, asks_every_level_with_prompts_of_their_own) {
  fake_cluster cluster;
  generate_bench_options options;
  options.concurrency = {1, 4};
  options.prompt_tokens = 16;
  options.output_tokens = 3;
  std::vector<std::uint64_t> told;
  const auto rows = run_generate_bench(
      options, 50, [&] { return std::make_unique<fake_source>(cluster); },
      [&](std::uint64_t done, std::uint64_t all) {
        told.push_back(done);
        EXPECT_EQ(all, 24U);
      });
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 2U);
  EXPECT_EQ(rows->at(0).requests, 6U);
  EXPECT_EQ(rows->at(0).failed, 2U);
  EXPECT_EQ(rows->at(0).first_error, "no such luck");
  EXPECT_EQ(rows->at(1).requests + rows->at(1).failed, 16U);
  EXPECT_EQ(rows->at(1).output_tokens, 3 * rows->at(1).requests);
  EXPECT_EQ(told.size(), 24U);
  EXPECT_EQ(told.back(), 24U);
  const std::set<std::vector<std::uint32_t>> different(cluster.prompts.begin(), cluster.prompts.end());
  EXPECT_EQ(different.size(), 24U);
  for (const auto& prompt : different) {
    EXPECT_EQ(prompt.size(), 16U);
    for (const auto token : prompt) EXPECT_LT(token, 50U);
  }
}

TEST(event_reader, puts_pieces_together) {
  event_reader reader;
  std::vector<std::string> events;
  const auto keep = [&](std::string_view data) { events.emplace_back(data); };
  for (const char* piece : {"data: {\"a", "\":1}\r\n\r", "\n: comment\nevent: x\ndata:two\n\nda", "ta: [DONE]\n"}) {
    ASSERT_TRUE(reader.push(piece, keep));
  }
  EXPECT_THAT(events, ElementsAre("{\"a\":1}", "two", "[DONE]"));
}

TEST(event_reader, bounds_its_memory) {
  event_reader reader;
  const std::string piece(1 << 19, 'x');
  EXPECT_TRUE(reader.push(piece, [](std::string_view) {}));
  EXPECT_TRUE(reader.push(piece, [](std::string_view) {}));
  EXPECT_FALSE(reader.push(piece, [](std::string_view) {}));
}

TEST(text_options, are_checked) {
  text_options options;
  options.logit_bias = {"7:-2.5", "8:1"};
  options.degrade = "fail";
  options.timeout = 5s;
  const auto good = checked(options);
  ASSERT_TRUE(good);
  EXPECT_EQ(good->logit_bias.at(7), -2.5F);
  EXPECT_EQ(good->logit_bias.at(8), 1.0F);
  EXPECT_EQ(good->policy, client::degrade::fail);
  EXPECT_EQ(good->timeout, 5s);
  for (const char* bad : {"7", "7:", ":1", "x:1", "7:1x", "-1:1"}) {
    options.logit_bias = {bad};
    EXPECT_FALSE(checked(options)) << bad;
  }
}

TEST(terminal_text, shows_what_could_change_the_screen) {
  EXPECT_EQ(terminal_text("a\tb\n\xc3\xa9\x1b[2J\r"), "a\tb\n\xc3\xa9\\x1b[2J\\x0d");
}

}  // namespace
}  // namespace troupe::cli
