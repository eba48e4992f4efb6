// A router that knows of cold experts: it keeps what they got, and lets rows try them, if it was told to.
#include <algorithm>
#include <cmath>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/router_node/router_fixture.hpp"

namespace troupe::router::testing {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class cold_experts_at_a_router : public router_test {
 protected:
  void begin(std::uint32_t rows_kept, float explore_bias = 0, dtype wire = dtype::f32) {
    if (rows_kept > 0) reservoir_ = std::make_unique<input_reservoir>(rows_kept, limits::mib, std::mt19937_64(1));
    explore_bias_ = explore_bias;
    start("mixtral", wire);
    for (const auto* name : {"expert-0", "expert-1"}) add_host(name);
    publish({{"expert-0"}, {"expert-1"}});
    await_links(2);
  }
  // Rows that differ from each other.
  [[nodiscard]] std::vector<float> rows_of(std::uint32_t count, std::uint32_t seed) const {
    std::mt19937 random(seed);
    std::vector<float> values(std::size_t{count} * layer().hidden);
    for (auto& value : values) value = static_cast<float>(static_cast<int>(random() % 4001) - 2000) / 256;
    return values;
  }
  void tell(std::vector<std::uint32_t> cold) {
    std::vector<expert_id> experts;
    for (auto e : cold) experts.push_back({layer().id, e});
    loop_->use_cold(++told_, std::move(experts));
    await([&] { return loop_->health().cold_fingerprint == told_; }, "the router knows");
  }
  client_reply ask(const std::vector<float>& rows) {
    client_->send_layer(layer_name(), rows, layer().hidden);
    return client_->receive();
  }
  client_reply inputs_of(std::uint32_t expert) {
    proto::ClientToRouter envelope;
    auto& request = *envelope.mutable_inputs();
    request.set_request_id(900 + expert);
    request.set_layer(layer_name());
    request.set_expert(expert);
    client_->send(envelope);
    return client_->receive();
  }
  // The rows that went to that expert, with its weight: as the answer says.
  [[nodiscard]] std::multiset<std::pair<std::vector<float>, float>> rows_to(std::uint32_t expert,
                                                                            const std::vector<float>& rows,
                                                                            const client_reply& answered) const {
    std::multiset<std::pair<std::vector<float>, float>> found;
    const auto k = layer().top_k;
    for (std::size_t a = 0; a < answered.ids.size(); ++a) {
      if (answered.ids[a] != static_cast<std::int32_t>(expert)) continue;
      const auto* row = rows.data() + a / k * layer().hidden;
      found.emplace(std::vector(row, row + layer().hidden), answered.weights[a]);
    }
    return found;
  }
  [[nodiscard]] std::multiset<std::pair<std::vector<float>, float>> rows_in(const client_reply& inputs) const {
    std::multiset<std::pair<std::vector<float>, float>> found;
    for (std::size_t r = 0; r < inputs.weights.size(); ++r) {
      const auto* row = inputs.output.data() + r * layer().hidden;
      found.emplace(std::vector(row, row + layer().hidden), inputs.weights[r]);
    }
    return found;
  }

 private:
  std::uint64_t told_{};
};

TEST_F(cold_experts_at_a_router, what_they_got_is_kept_and_given_out) {
  begin(1000);
  tell({0});
  const auto x = rows_of(200, 1);
  const auto answered = ask(x);
  ASSERT_THAT(answered.flags, SizeIs(200));
  EXPECT_THAT(answered.flags, Each(0));
  const auto sent = rows_to(0, x, answered);
  ASSERT_FALSE(sent.empty());
  const auto kept = inputs_of(0);
  ASSERT_TRUE(kept.envelope.has_inputs()) << kept.envelope.ShortDebugString();
  EXPECT_EQ(kept.envelope.inputs().rows_seen(), sent.size());
  EXPECT_EQ(kept.envelope.inputs().epoch(), 1U);
  EXPECT_EQ(rows_in(kept), sent) << "bit for bit";
  EXPECT_THAT(inputs_of(1).weights, IsEmpty()) << "not cold";
}

TEST_F(cold_experts_at_a_router, a_full_reservoir_holds_rows_that_were_sent) {
  begin(5);
  tell({0, 1});
  const auto x = rows_of(300, 2);
  const auto answered = ask(x);
  const auto sent = rows_to(1, x, answered);
  ASSERT_GT(sent.size(), 5U);
  const auto kept = rows_in(inputs_of(1));
  EXPECT_THAT(kept, SizeIs(5));
  EXPECT_TRUE(std::ranges::includes(sent, kept));
  tell({0});
  EXPECT_THAT(inputs_of(1).weights, IsEmpty()) << "it is warm again";
}

TEST_F(cold_experts_at_a_router, rows_are_kept_as_the_expert_got_them) {
  begin(100, 0, dtype::bf16);
  tell({0});
  (void)ask(rows_of(50, 3));
  const auto kept = inputs_of(0);
  EXPECT_EQ(kept.envelope.inputs().hidden().dtype(), proto::BF16);
}

TEST_F(cold_experts_at_a_router, keeping_changes_no_answer) {
  begin(0);
  const auto x = rows_of(100, 4);
  const auto without = ask(x);
  stop();
  begin(10);
  tell({0, 1, 2});
  const auto with = ask(x);
  EXPECT_EQ(with.output, without.output);
  EXPECT_EQ(with.ids, without.ids);
  EXPECT_EQ(with.weights, without.weights);
  EXPECT_EQ(with.flags, without.flags);
}

TEST_F(cold_experts_at_a_router, what_cannot_be_given_out_is_refused) {
  begin(0);
  auto refused = inputs_of(0);
  ASSERT_TRUE(refused.envelope.has_failure());
  EXPECT_EQ(refused.envelope.failure().error().code(), proto::CONFLICT);
  EXPECT_THAT(refused.envelope.failure().error().message(), HasSubstr("--cold-reservoir-rows"));
  refused = inputs_of(10'000);
  ASSERT_TRUE(refused.envelope.has_failure());
  EXPECT_EQ(refused.envelope.failure().error().code(), proto::UNKNOWN_EXPERT);
}

TEST_F(cold_experts_at_a_router, rows_try_them_and_say_so) {
  begin(1000, 0.2F);
  const auto x = rows_of(300, 5);
  const auto exact = ask(x);
  EXPECT_THAT(exact.flags, Each(0)) << "nobody is cold";
  tell({0});
  const auto tried = ask(x);
  ASSERT_EQ(tried.flags.size(), exact.flags.size());
  const auto k = layer().top_k;
  std::size_t changed = 0;
  for (std::size_t r = 0; r < tried.flags.size(); ++r) {
    const bool is_same = std::equal(&tried.ids[r * k], &tried.ids[r * k] + k, &exact.ids[r * k]);
    EXPECT_EQ(tried.flags[r], is_same ? 0 : flag_substituted) << "row " << r;
    if (is_same) continue;
    ++changed;
    EXPECT_EQ(tried.ids[r * k + k - 1], 0) << "the last place went to the cold one";
  }
  EXPECT_GT(changed, 0U);
  EXPECT_LT(changed, tried.flags.size()) << "not at any price";
  const auto wanted = expected(tried, x, layer().hidden);
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    ASSERT_NEAR(tried.routed[i], wanted[i], 1e-4 * std::abs(wanted[i]) + 1e-3) << i;
  }
  EXPECT_THAT(metrics_text(),
              HasSubstr("moe_explored_rows_total{layer=\"" + layer_name() + "\"} " + std::to_string(changed)));
  EXPECT_EQ(rows_in(inputs_of(0)), rows_to(0, x, tried)) << "what they tried is kept as well";
}

}  // namespace
}  // namespace troupe::router::testing
