// Which experts are cold by given figures, and what a cluster says and does about it.
#include "coordinator/core/policies/cold_experts.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/core/explanation.hpp"
#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr layer_id layer = layer_id::of(0);
constexpr time_point noon{std::chrono::hours(12)};

// -- the policy alone -------------------------------------------------------------------------------------------------

std::vector<watched_layer> one_layer(const std::vector<std::uint64_t>& rows, std::chrono::milliseconds age = 1h) {
  watched_layer made{layer, {}};
  for (std::uint32_t e = 0; e < rows.size(); ++e) made.experts.push_back({e, rows[e], false, {1}, age});
  return {made};
}

std::string told(const std::vector<cold_change>& changes) {
  std::string text;
  for (const auto& change : changes) text += fmt::format("{} {}; ", to_string(change.what), change.expert.index);
  return text;
}

TEST(cold_experts, an_expert_under_five_percent_of_its_fair_share_is_cold) {
  cold_experts known;
  auto changes = judge_cold(one_layer({2000, 1000, 51, 49, 900}), {}, noon, known);  // a fair share is 800: 40 rows
  EXPECT_THAT(changes, IsEmpty());
  changes = judge_cold(one_layer({2000, 1000, 41, 39, 920}), {}, noon, known);
  ASSERT_EQ(told(changes), "expert_cold 3; ");
  EXPECT_EQ(changes[0].why,
            "39 of its layer's 4000 rows in the last 60 s, 0.05 times its fair share (cold under 0.05)");
  EXPECT_EQ(known.at({layer, 3}).since, noon);
  EXPECT_THAT(judge_cold(one_layer({2000, 1000, 41, 39, 920}), {}, noon + 2s, known), IsEmpty()) << "said once";
  EXPECT_EQ(known.at({layer, 3}).since, noon);
}

TEST(cold_experts, is_warm_again_from_twice_the_share_on) {
  cold_experts known;
  EXPECT_EQ(told(judge_cold(one_layer({2000, 2000, 0, 0}), {}, noon, known)), "expert_cold 2; expert_cold 3; ");
  EXPECT_THAT(judge_cold(one_layer({2000, 1820, 90, 90}), {}, noon, known), IsEmpty()) << "0.09 of the fair share";
  EXPECT_EQ(told(judge_cold(one_layer({2000, 1810, 100, 90}), {}, noon, known)), "expert_warm 2; ");
  EXPECT_THAT(known, SizeIs(1));
  EXPECT_THAT(judge_cold(one_layer({2000, 1850, 60, 90}), {}, noon, known), IsEmpty()) << "0.06 is warm when it was";
}

TEST(cold_experts, few_rows_judge_nobody) {
  cold_experts known;
  EXPECT_THAT(judge_cold(one_layer({399, 0, 0, 0}), {}, noon, known), IsEmpty());
  EXPECT_EQ(told(judge_cold(one_layer({399, 1, 0, 0}), {}, noon, known)),
            "expert_cold 1; expert_cold 2; expert_cold 3; ");
  EXPECT_THAT(judge_cold(one_layer({0, 0, 0, 0}), {}, noon, known), IsEmpty()) << "a quiet night changes nothing";
  EXPECT_THAT(known, SizeIs(3));
  cold_experts alone;
  EXPECT_THAT(judge_cold(one_layer({100'000}), {}, noon, alone), IsEmpty());
}

TEST(cold_experts, newcomers_are_not_cold_and_those_that_left_are_forgotten) {
  cold_experts known;
  auto layers = one_layer({2000, 2000, 0, 0});
  layers[0].experts[2].is_new = true;
  EXPECT_EQ(told(judge_cold(layers, {}, noon, known)), "expert_cold 3; ");
  layers[0].experts.pop_back();  // pruned
  EXPECT_THAT(judge_cold(layers, {}, noon, known), IsEmpty());
  EXPECT_THAT(known, IsEmpty());
}

TEST(cold_experts, stale_weights_are_told_of_once_per_version) {
  cold_experts known;
  EXPECT_EQ(told(judge_cold(one_layer({400, 400, 0}, 47h), {}, noon, known)), "expert_cold 2; ");
  auto changes = judge_cold(one_layer({400, 400, 0}, 48h), {}, noon, known);
  ASSERT_EQ(told(changes), "expert_stale 2; ");
  EXPECT_THAT(changes[0].why, HasSubstr("version 1 of its weights has served for 48.0 h"));
  EXPECT_THAT(judge_cold(one_layer({400, 400, 0}, 50h), {}, noon, known), IsEmpty());
  EXPECT_THAT(judge_cold(one_layer({0, 0, 0}, 50h), {}, noon, known), IsEmpty());
  auto refreshed = one_layer({400, 400, 0}, 1h);
  refreshed[0].experts[2].version = {2};
  EXPECT_THAT(judge_cold(refreshed, {}, noon, known), IsEmpty());
  refreshed[0].experts[2].age = 49h;
  EXPECT_EQ(told(judge_cold(refreshed, {}, noon, known)), "expert_stale 2; ");
}

TEST(cold_experts, fingerprints_tell_sets_apart) {
  cold_experts known;
  EXPECT_EQ(fingerprint(known), 0U);
  known[{layer, 1}];
  auto one = fingerprint(known);
  known[{layer, 2}];
  EXPECT_NE(fingerprint(known), one);
  known.erase({layer, 2});
  known.begin()->second.rows = 7;
  EXPECT_EQ(fingerprint(known), one) << "figures do not matter";
}

// -- in a cluster -----------------------------------------------------------------------------------------------------

class cold_experts_in_a_cluster : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = settings_of(4, 1, 1);
    made.gates[layer].num_experts = 4;
    made.gates[layer].top_k = 2;
    made.started_unix_ms = 1'000'000;
    h.emplace(std::move(made));
    h->add_expert_node("a", 8);
    h->add_router("r");
    h->converge();
  }
  // Each second as many more rows per expert.
  void work(std::chrono::seconds length, const std::vector<std::uint64_t>& rows_per_second) {
    for (auto second = 0s; second < length; ++second) {
      stats_report report{{"a"}, {1}, 0, 0, {}};
      for (std::uint32_t e = 0; e < rows_per_second.size(); ++e) {
        report.experts.push_back({{layer, e}, rows_[e] += rows_per_second[e], 0});
      }
      h->step(report);
      h->converge(1s);
    }
  }
  // What the router is told when it knows of those.
  std::optional<cold_notice> ask(std::uint64_t known) {
    (void)h->take_messages("r");
    stats_report report{{"r"}, {1}, 0, 0, {}};
    report.cold_fingerprint = known;
    h->step(report);
    for (const auto& message : h->take_messages("r")) {
      if (const auto* notice = std::get_if<cold_notice>(&message.what)) return *notice;
    }
    return std::nullopt;
  }
  std::vector<std::string> told() const {
    std::vector<std::string> lines;
    for (const auto& event : h->events) {
      if (event.kind.starts_with("expert_")) lines.push_back(event.kind + " " + event.object);
    }
    return lines;
  }

  std::optional<core_harness> h;
  std::map<std::uint32_t, std::uint64_t> rows_;
};

TEST_F(cold_experts_in_a_cluster, events_explanations_and_the_routers_follow_the_traffic) {
  work(6s, {100, 100, 100, 1});
  EXPECT_THAT(told(), ElementsAre("expert_cold 0/3"));
  auto seen = explain(h->state(), *h->state().find(expert_id{layer, 3}));
  EXPECT_THAT(seen.reasons, Contains(HasSubstr("times its fair share (cold under 0.05); its weights are 0.0 h old")));
  EXPECT_THAT(seen.would_change, Contains(HasSubstr("warm again from 0.10 times its fair share on")));
  seen = explain(h->state(), *h->state().find(expert_id{layer, 1}));
  EXPECT_THAT(seen.reasons, ::testing::Each(::testing::Not(HasSubstr("cold"))));

  auto notice = ask(0);
  ASSERT_TRUE(notice);
  EXPECT_THAT(notice->experts, ElementsAre(expert_id{layer, 3}));
  EXPECT_FALSE(ask(notice->fingerprint)) << "it knows";

  work(70s, {100, 100, 100, 50});
  EXPECT_THAT(told(), ElementsAre("expert_cold 0/3", "expert_warm 0/3"));
  notice = ask(notice->fingerprint);
  ASSERT_TRUE(notice);
  EXPECT_THAT(notice->experts, IsEmpty());
  EXPECT_EQ(notice->fingerprint, 0U);
}

TEST_F(cold_experts_in_a_cluster, a_coordinator_that_has_judged_nothing_yet_says_nothing) {
  EXPECT_FALSE(ask(77));
  h->pass(limits::traffic_window);
  auto notice = ask(77);
  ASSERT_TRUE(notice);
  EXPECT_THAT(notice->experts, IsEmpty());
}

TEST_F(cold_experts_in_a_cluster, a_pruned_expert_is_not_cold) {
  work(6s, {100, 100, 100, 1});
  ASSERT_THAT(h->state().cold, SizeIs(1));
  ASSERT_TRUE(h->command(change_presence{{layer, 3}, change_presence::verb::prune, false}));
  h->converge();
  EXPECT_THAT(h->state().cold, IsEmpty());
  ASSERT_TRUE(h->command(change_presence{{layer, 3}, change_presence::verb::restore, false}));
  h->converge();
  work(6s, {100, 100, 100, 0});
  EXPECT_THAT(h->state().cold, IsEmpty()) << "it has not been there for as long as the others' rows were counted";
}

TEST_F(cold_experts_in_a_cluster, weights_that_nobody_renewed_are_a_warning) {
  h->now += 48h;  // as if the coordinator had run for two days
  work(6s, {100, 100, 100, 1});
  EXPECT_THAT(told(), ElementsAre("expert_cold 0/3", "expert_stale 0/3"));
  EXPECT_EQ(h->events.back().level, severity::warning);
}

TEST_F(cold_experts_in_a_cluster, the_age_of_the_models_own_weights_goes_on_over_a_restart) {
  auto again = settings_of(4, 1, 1);
  again.started_unix_ms = 1'000'000 + std::chrono::milliseconds(48h).count();
  auto disk = h->disk();
  auto held = h->held["a"];
  h.emplace(std::move(again), disk);
  h->join("a");
  h->beating["a"] = 1;
  h->report("a", held);
  h->add_router("r");
  work(6s, {100, 100, 100, 1});
  EXPECT_THAT(told(), ElementsAre("expert_cold 0/3", "expert_stale 0/3"));
}

}  // namespace
}  // namespace troupe::coordinator::testing
