// What policies propose from given figures, and that proposals become operations in a cluster.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/core/explanation.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/core/policy_runner.hpp"
#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr layer_id layer = layer_id::of(0);

// -- one policy at a time ---------------------------------------------------------------------------------------------

expert_load masked(std::uint32_t index, double share, std::uint64_t rows = 5000) {
  expert_load load;
  load.index = index;
  load.is_dormant = true;
  load.masked_share = share;
  load.masked_rows = rows;
  return load;
}

expert_load serving(std::uint32_t index, std::vector<std::uint32_t> nodes, std::uint64_t rows) {
  expert_load load;
  load.index = index;
  load.is_present = load.was_watched = true;
  load.nodes = std::move(nodes);
  load.rows = load.long_rows = rows;
  return load;
}

policy_input one_layer(std::vector<expert_load> experts, std::uint32_t nodes = 2, std::uint32_t slots_free = 1) {
  policy_input input;
  for (std::uint32_t n = 0; n < nodes; ++n)
    input.nodes.push_back({{std::string(1, static_cast<char>('a' + n))}, slots_free, 0});
  input.layers.push_back({layer, std::move(experts), false});
  return input;
}

TEST(progressive_addition, adds_the_expert_that_rows_miss_most) {
  auto input = one_layer({serving(0, {0}, 100), masked(1, 0.06), masked(2, 0.3), masked(3, 0.1)});
  auto made = propose_additions(input, {});
  ASSERT_THAT(made, SizeIs(1));
  const auto& what = std::get<change_presence>(made[0].what);
  EXPECT_EQ(what.expert.index, 2U);
  EXPECT_EQ(what.what, change_presence::verb::add);
  EXPECT_EQ(made[0].why,
            "30.0 % of the gate probability of 5000 rows went to it while it was not there (added from 5.0 %)");
}

TEST(progressive_addition, waits_for_enough_rows_mass_and_queue) {
  EXPECT_THAT(propose_additions(one_layer({masked(1, 0.04)}), {}), IsEmpty());
  EXPECT_THAT(propose_additions(one_layer({masked(1, 0.5, 100)}), {}), IsEmpty());
  auto pruned = masked(1, 0.5);
  pruned.is_dormant = false;
  EXPECT_THAT(propose_additions(one_layer({pruned}), {}), IsEmpty()) << "an operator took it out on purpose";
  policy_settings busy_only;
  busy_only.add_queue_rows = 10;
  auto input = one_layer({masked(1, 0.5)});
  EXPECT_THAT(propose_additions(input, busy_only), IsEmpty());
  input.nodes[0].queue_rows = 6;
  input.nodes[1].queue_rows = 4;
  EXPECT_THAT(propose_additions(input, busy_only), SizeIs(1));
  input.layers[0].is_changing = true;
  EXPECT_THAT(propose_additions(input, busy_only), IsEmpty());
}

TEST(pruning, takes_out_the_coldest_expert_below_its_share) {
  auto input = one_layer({serving(0, {0}, 6000), serving(1, {1}, 100), serving(2, {0}, 3860), serving(3, {1}, 40)});
  auto made = propose_prunes(input, {});
  ASSERT_THAT(made, SizeIs(1));
  EXPECT_EQ(std::get<change_presence>(made[0].what).expert.index, 3U);
  EXPECT_THAT(made[0].why, HasSubstr("40 of its layer's 10000 rows in 24 h were its own, 0.40 %"));
  policy_settings short_window;
  short_window.prune_window = std::chrono::seconds(20);
  EXPECT_THAT(propose_prunes(input, short_window)[0].why, HasSubstr("rows in 20 s were its own"));
}

TEST(pruning, judges_only_what_it_watched_and_nothing_that_is_fixed) {
  auto cold = serving(1, {1}, 1);
  EXPECT_THAT(propose_prunes(one_layer({serving(0, {0}, 5000), cold}), {}), SizeIs(1));
  cold.was_watched = false;
  EXPECT_THAT(propose_prunes(one_layer({serving(0, {0}, 5000), cold}), {}), IsEmpty());
  cold = serving(1, {1}, 1);
  cold.is_fixed = true;
  EXPECT_THAT(propose_prunes(one_layer({serving(0, {0}, 5000), cold}), {}), IsEmpty());
  EXPECT_THAT(propose_prunes(one_layer({serving(0, {0}, 500), serving(1, {1}, 1)}), {}), IsEmpty()) << "too few rows";
  EXPECT_THAT(propose_prunes(one_layer({serving(0, {0}, 900), serving(1, {1}, 900)}), {}), IsEmpty());
}

TEST(pruning, keeps_an_expert_whose_few_rows_weigh_much) {
  auto input = one_layer({serving(0, {0}, 9900), serving(1, {1}, 60), serving(2, {1}, 40)});
  auto& experts = input.layers[0].experts;
  experts[0].long_norm = 9000;
  experts[1].long_norm = 50;
  experts[2].long_norm = 950;
  auto made = propose_prunes(input, {});
  ASSERT_THAT(made, SizeIs(1));
  EXPECT_EQ(std::get<change_presence>(made[0].what).expert.index, 1U) << "2 has fewer rows, and 9.5 % of what counts";
  EXPECT_THAT(made[0].why, HasSubstr("0.60 %, and 0.50 % of their gate weight x output norm"));
  experts[1].is_fixed = true;
  EXPECT_THAT(propose_prunes(input, {}), IsEmpty());
}

TEST(pruning, stops_when_rows_miss_what_is_out_already) {
  auto out = masked(2, 0.03);
  out.is_dormant = false;
  auto input = one_layer({serving(0, {0}, 9900), serving(1, {1}, 100), out});
  EXPECT_THAT(propose_prunes(input, {}), SizeIs(1));
  input.layers[0].experts[2].masked_share = 0.045;
  EXPECT_THAT(propose_prunes(input, {}), IsEmpty()) << "with its own 1 % more than 5 %";
  input.layers[0].experts[2].is_dormant = true;
  EXPECT_THAT(propose_prunes(input, {}), SizeIs(1)) << "that one was never there";
}

TEST(pruning, brings_back_what_rows_miss_again_if_the_policy_took_it_out) {
  const auto pruned = [](std::uint32_t index, double share, bool by_policy, std::uint64_t rows = 5000) {
    auto load = masked(index, share, rows);
    load.is_dormant = false;
    load.may_return = by_policy;
    return load;
  };
  auto input = one_layer({serving(0, {0}, 100), pruned(1, 0.05, true), pruned(2, 0.06, true), pruned(3, 0.3, false)});
  auto made = propose_returns(input, {});
  ASSERT_THAT(made, SizeIs(1));
  const auto& what = std::get<change_presence>(made[0].what);
  EXPECT_EQ(what.expert.index, 2U) << "an operator took 3 out";
  EXPECT_EQ(what.what, change_presence::verb::restore);
  EXPECT_EQ(made[0].why,
            "6.0 % of the gate probability of 5000 rows went to it while it was pruned (brought back from 4.0 %)");
  EXPECT_THAT(propose_returns(one_layer({pruned(1, 0.039, true)}), {}), IsEmpty());
  EXPECT_THAT(propose_returns(one_layer({pruned(1, 0.5, true, 100)}), {}), IsEmpty()) << "too few rows";
  EXPECT_THAT(propose_returns(one_layer({masked(1, 0.5)}), {}), IsEmpty()) << "it was never there";
  input.layers[0].is_changing = true;
  EXPECT_THAT(propose_returns(input, {}), IsEmpty());
}

TEST(balancing, replicates_the_expert_that_no_move_can_even_out) {
  auto input = one_layer({serving(0, {0}, 8000), serving(1, {0}, 500), serving(2, {1}, 500), serving(3, {1}, 500)});
  auto made = propose_moves(input, {});
  ASSERT_THAT(made, SizeIs(1));
  const auto& what = std::get<replicate_expert>(made[0].what);
  EXPECT_EQ(what.expert.index, 0U);
  EXPECT_EQ(what.count, 2U);
  EXPECT_THAT(made[0].why, HasSubstr("the fullest node has 79 % more"));
}

TEST(balancing, follows_the_newest_rows_when_the_text_has_changed) {
  auto input = one_layer({serving(0, {0}, 5000), serving(1, {0}, 100), serving(2, {1}, 2600), serving(3, {1}, 2500)});
  auto& experts = input.layers[0].experts;
  for (auto& expert : experts) expert.recent_rows = expert.rows / 4;
  EXPECT_THAT(propose_moves(input, {}), IsEmpty()) << "even, and no drift";
  experts[0].recent_rows = 100;
  experts[1].recent_rows = 100;
  auto made = propose_moves(input, {});
  ASSERT_THAT(made, SizeIs(1)) << "node b has nearly all of the newest rows";
  EXPECT_THAT(made[0].why, HasSubstr("of its newest rows"));
  for (auto& expert : experts) expert.recent_rows /= 10;
  EXPECT_THAT(propose_moves(input, {}), IsEmpty()) << "too few of them to judge by";
}

TEST(balancing, leaves_an_even_or_a_quiet_layer_alone) {
  EXPECT_THAT(propose_moves(one_layer({serving(0, {0}, 1000), serving(1, {1}, 1100)}), {}), IsEmpty());
  EXPECT_THAT(propose_moves(one_layer({serving(0, {0}, 300), serving(1, {1}, 3)}), {}), IsEmpty());
  auto input = one_layer({serving(0, {0}, 8000), serving(1, {1}, 10)});
  input.layers[0].is_changing = true;
  EXPECT_THAT(propose_moves(input, {}), IsEmpty());
}

// There are more experts than the nodes have slots; those that are not there must not be planned for.
TEST(balancing, looks_only_at_experts_that_are_there) {
  std::vector<expert_load> experts;
  for (std::uint32_t e = 0; e < 20; ++e) {
    auto absent = serving(e, {}, 0);
    absent.is_present = false;
    absent.is_dormant = true;
    experts.push_back(absent);
  }
  experts[7] = serving(7, {0}, 8000);
  experts[12] = serving(12, {1}, 500);
  auto made = propose_moves(one_layer(experts), {});
  ASSERT_THAT(made, SizeIs(1));
  EXPECT_EQ(std::get<replicate_expert>(made[0].what).expert.index, 7U);
}

// Both nodes are full, and each expert is there once.
TEST(balancing, lets_experts_change_places_when_their_nodes_are_full) {
  auto input =
      one_layer({serving(0, {0}, 2500), serving(1, {0}, 2500), serving(2, {1}, 20), serving(3, {1}, 20)}, 2, 0);
  auto made = propose_moves(input, {});
  ASSERT_THAT(made, SizeIs(1));
  const auto& what = std::get<apply_placement>(made[0].what);
  ASSERT_THAT(what.experts, SizeIs(2));
  EXPECT_LT(what.experts[0].expert.index, 2U);
  EXPECT_GE(what.experts[1].expert.index, 2U);
  EXPECT_EQ(what.experts[0].nodes, std::vector<node_id>{{"b"}});
  EXPECT_EQ(what.experts[1].nodes, std::vector<node_id>{{"a"}});
  for (auto& expert : input.layers[0].experts) expert.is_fixed = expert.index >= 2;
  EXPECT_THAT(propose_moves(input, {}), IsEmpty()) << "what would have to make room must stay";
}

TEST(balancing, a_full_node_without_any_of_the_layer_is_left_out) {
  auto input = one_layer({serving(0, {0}, 5000), serving(1, {0}, 5000), serving(2, {2}, 20)}, 3);
  input.nodes[1].slots_free = 0;
  auto made = propose_moves(input, {});
  ASSERT_THAT(made, SizeIs(1));
  EXPECT_EQ(std::get<migrate_expert>(made[0].what).to.value, "c");
}

// Repeats what it proposes until nothing is proposed any more: it must end, and it must end even.
TEST(balancing, its_steps_lead_to_even_nodes_and_stop) {
  std::vector<expert_load> experts;
  for (std::uint32_t e = 0; e < 8; ++e) experts.push_back(serving(e, {e / 4}, e < 4 ? 2000 : 200));
  auto input = one_layer(experts, 2, 2);
  int steps = 0;
  for (auto made = propose_moves(input, {}); !made.empty() && steps < 20; made = propose_moves(input, {}), ++steps) {
    auto& all = input.layers[0].experts;
    if (const auto* moved = std::get_if<migrate_expert>(&made[0].what)) {
      auto to = moved->to.value == "a" ? 0U : 1U;
      all[moved->expert.index].nodes = {to};
      --input.nodes[to].slots_free;
      ++input.nodes[1 - to].slots_free;
    } else {
      const auto& copied = std::get<replicate_expert>(made[0].what);
      auto& nodes = all[copied.expert.index].nodes;
      ASSERT_EQ(copied.count, 2U);
      --input.nodes[1 - nodes[0]].slots_free;
      nodes = {0, 1};
    }
  }
  EXPECT_LT(steps, 8);
  double load[2] = {};
  for (const auto& expert : input.layers[0].experts) {
    for (auto n : expert.nodes) load[n] += static_cast<double>(expert.rows) / static_cast<double>(expert.nodes.size());
  }
  EXPECT_LT(std::max(load[0], load[1]) / (load[0] + load[1]) * 2, 1.26);
}

// -- in a cluster -----------------------------------------------------------------------------------------------------

class policies_in_a_cluster : public ::testing::Test {
 protected:
  cluster_settings settings(std::uint32_t experts) {
    auto made = settings_of(experts, 1, 2);
    made.gates[layer].num_experts = experts;
    made.gates[layer].top_k = 2;
    return made;
  }
  void start(cluster_settings made, const std::vector<std::uint32_t>& slots = {8, 8}) {
    h.emplace(std::move(made));
    for (std::size_t n = 0; n < slots.size(); ++n) h->add_expert_node(std::string(1, "abc"[n]), slots[n]);
    h->add_router("r");
    h->converge();
  }
  // Everybody works for that long; each second as many more rows per expert, of those that there are.
  void work(std::chrono::seconds length, const std::vector<std::uint64_t>& rows_per_second) {
    for (auto second = 0s; second < length; ++second) {
      for (std::uint32_t e = 0; e < rows_per_second.size(); ++e) rows_[e] += rows_per_second[e];
      for (const auto& [name, slots] : std::map(h->held)) {
        stats_report report{{name}, {1}, 0, 0, {}};
        for (const auto& slot : slots) {
          auto rows = rows_[slot.expert.index];
          report.experts.push_back(
              {slot.expert, rows, 0, 0, 0, weight_of_rows_[slot.expert.index] * static_cast<double>(rows)});
        }
        h->step(report);
      }
      h->converge(1s);
    }
  }
  // Rows that were gated, and what of their gate probability went to each masked expert.
  void miss(std::uint64_t rows, const std::map<std::uint32_t, double>& mass) {
    stats_report report{{"r"}, {1}, 0, 0, {}};
    missed_rows_ += rows;
    for (const auto& [e, share] : mass) {
      missed_mass_[e] += share * static_cast<double>(rows);
      report.experts.push_back({{layer, e}, 0, 0, missed_rows_, missed_mass_[e]});
    }
    h->step(report);
  }
  std::string operations() const {
    std::string text;
    for (const auto& [number, operation] : h->state().operations) {
      text += fmt::format("{} {}: {}; ", to_string(operation.kind), operation.expert.index, operation.who);
    }
    return text;
  }

  std::optional<core_harness> h;
  std::map<std::uint32_t, std::uint64_t> rows_;
  std::map<std::uint32_t, double> weight_of_rows_;  // gate weight x output norm
  std::uint64_t missed_rows_{};
  std::map<std::uint32_t, double> missed_mass_;
};

TEST_F(policies_in_a_cluster, nothing_happens_without_being_asked_for) {
  auto made = settings(6);
  made.active_experts = 2;
  start(std::move(made));
  miss(10'000, {{4, 0.5}});
  work(30s, {1000, 1});
  EXPECT_EQ(operations(), "");
}

TEST_F(policies_in_a_cluster, experts_that_rows_miss_come_in_one_after_the_other) {
  auto made = settings(6);
  made.active_experts = 2;
  made.policies.adds = true;
  start(std::move(made));
  EXPECT_EQ(operations(), "");
  miss(10'000, {{2, 0.01}, {3, 0.1}, {4, 0.3}, {5, 0.02}});
  h->converge(20s);
  EXPECT_EQ(operations(), "add 4: policy: progressive addition; add 3: policy: progressive addition; ");
  const auto& map = *h->state().published;
  EXPECT_THAT(map.gate_mask(layer), ::testing::ElementsAre(1, 1, 0, 1, 1, 0));
  EXPECT_THAT(h->state().operations.begin()->second.why, HasSubstr("30.0 % of the gate probability"));
}

TEST_F(policies_in_a_cluster, cold_experts_are_pruned_after_the_window_but_never_too_many) {
  auto made = settings(4);
  made.policies.prunes = true;
  made.policies.prune_window = 60s;
  start(std::move(made));
  work(40s, {500, 300, 2, 1});
  EXPECT_EQ(operations(), "") << "not watched for long enough";
  work(60s, {500, 300, 2, 1});
  EXPECT_EQ(operations(), "prune 3: policy: pruning; prune 2: policy: pruning; ");
  auto explained = explain(h->state(), *h->state().find(expert_id{layer, 3}));
  ASSERT_FALSE(explained.reasons.empty());
  EXPECT_THAT(explained.reasons[0], AllOf(HasSubstr("op-1 by policy: pruning"), HasSubstr("(pruned under 2.0 %)")));
  work(120s, {800, 1, 0, 0});
  EXPECT_EQ(operations(), "prune 3: policy: pruning; prune 2: policy: pruning; ") << "a row needs two";
}

TEST_F(policies_in_a_cluster, what_the_policy_pruned_comes_back_when_rows_miss_it) {
  auto made = settings(6);
  made.policies.prunes = true;
  made.policies.prune_window = 60s;
  start(std::move(made));
  ASSERT_TRUE(h->command(change_presence{{layer, 4}, change_presence::verb::prune, false}));
  h->converge();
  work(80s, {500, 300, 300, 1, 0, 400});
  const std::string pruned = operations();
  ASSERT_THAT(pruned, ::testing::EndsWith("prune 3: policy: pruning; "));
  auto hints = explain(h->state(), *h->state().find(expert_id{layer, 3})).would_change;
  EXPECT_THAT(hints, ::testing::Contains(HasSubstr("comes back by itself from 4.0 %")));
  hints = explain(h->state(), *h->state().find(expert_id{layer, 4})).would_change;
  EXPECT_THAT(hints, ::testing::Not(::testing::Contains(HasSubstr("by itself"))));
  miss(10'000, {{3, 0.03}, {4, 0.5}});
  h->converge(20s);
  EXPECT_EQ(operations(), pruned) << "an operator wanted 4 to go, and 3 is missed too little";
  miss(90'000, {{3, 0.2}, {4, 0.5}});
  h->converge(20s);
  EXPECT_EQ(operations(), pruned + "restore 3: policy: pruning; ");
  EXPECT_FALSE(h->state().find(expert_id{layer, 3})->wish.pruned_by_policy);
  EXPECT_EQ(h->state().published->gate_mask(layer)[3], 1);
}

TEST_F(policies_in_a_cluster, what_expert_nodes_report_of_outputs_keeps_an_expert) {
  auto made = settings(4);
  made.policies.prunes = true;
  made.policies.prune_window = 60s;
  start(std::move(made));
  weight_of_rows_ = {{0, 1}, {1, 1}, {2, 100}, {3, 1}};
  work(100s, {500, 300, 2, 1});
  EXPECT_EQ(operations(), "prune 3: policy: pruning; ");
}

TEST_F(policies_in_a_cluster, a_hot_expert_gets_a_second_replica) {
  auto made = settings(4);
  made.policies.balances = true;
  start(std::move(made));
  work(90s, {2000, 10, 10, 10});
  EXPECT_THAT(operations(), HasSubstr("replicate 0: policy: balancing"));
  EXPECT_EQ(h->state().published->find({layer, 0})->replicas.size(), 2U);
  auto count = h->state().operations.size();
  work(120s, {2000, 10, 10, 10});
  EXPECT_EQ(h->state().operations.size(), count) << "and then it is quiet";
}

// a and b are full, one slot of c is free: c cannot take more, so an expert of a and one of b change places through it.
TEST_F(policies_in_a_cluster, experts_of_full_nodes_change_places_through_the_free_slot_of_another) {
  auto made = settings(5);
  made.policies.balances = true;
  start(std::move(made), {2, 2, 2});
  ASSERT_EQ(h->placement(), "0: a | 1: b | 2: c | 3: a | 4: b");
  work(90s, {1000, 10, 1000, 1000, 10});
  EXPECT_EQ(operations(), "apply 0: policy: balancing; ");
  EXPECT_EQ(h->state().operations.begin()->second.state, operation_state::done);
  auto node_of = [&](std::uint32_t e) { return h->state().published->find({layer, e})->replicas.front().node; };
  EXPECT_NE(node_of(0), node_of(3));
  EXPECT_NE(node_of(0), node_of(2));
  EXPECT_NE(node_of(2), node_of(3));
}

TEST_F(policies_in_a_cluster, what_no_free_slot_allows_is_told) {
  auto made = settings(4);
  made.policies.balances = true;
  start(std::move(made), {2, 2});
  ASSERT_EQ(h->placement(), "0: a | 1: b | 2: a | 3: b");
  work(90s, {1000, 10, 1000, 10});
  EXPECT_THAT(operations(), IsEmpty());
  std::vector<std::string> told;
  for (const auto& event : h->events) {
    if (event.kind == "policy_refused") told.push_back(event.text);
  }
  ASSERT_THAT(told, SizeIs(1)) << "though it is looked at every 2 s";
  EXPECT_THAT(told[0], AllOf(HasSubstr("balancing: the fullest node has"), HasSubstr("every slot is in use")));
}

}  // namespace
}  // namespace troupe::coordinator::testing
