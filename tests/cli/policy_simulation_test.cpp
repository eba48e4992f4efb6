#include <gmock/gmock.h>

#include <algorithm>
#include <set>

#include "cli/simulation/load_simulation.hpp"
#include "cli/simulation/simulation_plot.hpp"
#include "cli/simulation/simulation_report.hpp"
#include "cli/simulation/synthetic_loads.hpp"

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;
using coordinator::no_expert;
using testing::HasSubstr;

// One layer with these loads in each of so many steps.
load_source steady(std::vector<double> loads, std::uint32_t steps) {
  return {{0}, {static_cast<std::uint32_t>(loads.size())}, steps, [loads, steps](const step_visitor& use) {
            for (std::uint32_t step = 0; step < steps; ++step) use(step, {loads});
          }};
}

std::vector<simulated_step> simulate(const load_source& source, const simulated_cluster& cluster,
                                     const simulated_policies& policies) {
  const std::vector<placing> who{policies};
  return simulate_loads(source, cluster, who, true).value().front().steps;
}

std::set<std::uint32_t> experts_of(const simulated_step& step) {
  std::set<std::uint32_t> held(step.expert_of_slot[0].begin(), step.expert_of_slot[0].end());
  held.erase(no_expert);
  return held;
}

TEST(apply_mask, gives_the_load_of_absent_experts_to_the_others) {
  std::vector<double> loads{6, 2, 8};
  EXPECT_DOUBLE_EQ(apply_mask(loads, {true, true, false}), 0.5);
  EXPECT_EQ(loads, (std::vector<double>{12, 4, 0}));
  EXPECT_EQ(apply_mask(loads, {}), 0);
}

TEST(policy_simulation, adds_the_experts_that_rows_miss_and_no_others) {
  simulated_policies policies{.active_experts = 2};
  policies.policies.adds = true;
  const simulated_cluster cluster{.node_slots = {4, 4}, .expert_bytes = 10};
  const auto steps = simulate(steady({30'000, 20'000, 1'000, 9'000, 40'000}, 4), cluster, policies);
  EXPECT_EQ(experts_of(steps[0]), (std::set<std::uint32_t>{0, 1}));
  EXPECT_NEAR(steps[0].masked_share, 0.5, 1e-12);
  EXPECT_EQ(steps[0].resident_bytes, 20U);
  // Under 5 % of the gate probability expert 2 stays away.
  EXPECT_EQ(experts_of(steps[1]), (std::set<std::uint32_t>{0, 1, 3, 4}));
  EXPECT_NEAR(steps[1].masked_share, 0.01, 1e-12);
  EXPECT_EQ(steps[1].resident_bytes, 40U);
  EXPECT_EQ(steps[1].moved_bytes, 20U);
  EXPECT_EQ(steps[3].moved_bytes, 0U);
}

TEST(policy_simulation, prunes_after_the_window_of_virtual_time_and_keeps_top_k) {
  simulated_policies policies{.top_k = 3, .step_minutes = 10};
  policies.policies.prunes = true;
  policies.policies.prune_window = 2h;
  const simulated_cluster cluster{.node_slots = {2, 3}, .expert_bytes = 10};
  const auto steps = simulate(steady({60'000, 39'000, 500, 400, 100}, 20), cluster, policies);
  for (std::uint32_t step = 0; step < 12; ++step) EXPECT_EQ(experts_of(steps[step]).size(), 5U) << step;
  EXPECT_EQ(experts_of(steps[12]), (std::set<std::uint32_t>{0, 1, 2})) << "two hours have passed; three experts stay";
  EXPECT_NEAR(steps[12].masked_share, 0.005, 1e-12);
  EXPECT_EQ(steps[11].resident_bytes, 50U);
  EXPECT_EQ(steps[19].resident_bytes, 30U);
}

TEST(policy_simulation, balances_what_planning_once_leaves_uneven) {
  simulated_policies policies;
  policies.policies.balances = true;
  simulated_cluster cluster;
  cluster.node_slots.assign(6, 6);
  const std::vector<placing> who{policies, planner_settings{.kind = planner_kind::keep}};
  const auto source = source_of({.shape = load_shape::drift, .layers = 2, .experts = 24, .hours = 12});
  const auto runs = simulate_loads(source, cluster, who, false).value();
  const auto balanced = summarize(runs[0], 2), kept = summarize(runs[1], 2);
  EXPECT_GT(balanced.moves, 0U);
  EXPECT_LT(balanced.imbalance_mean, 0.8 * kept.imbalance_mean);
}

TEST(policy_simulation, serves_every_active_expert_while_nodes_come_and_go) {
  simulated_policies policies{.active_experts = 6, .top_k = 2};
  policies.policies.adds = policies.policies.balances = policies.policies.prunes = true;
  policies.policies.prune_window = 1h;
  std::uint32_t steps_with_losses = 0;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    simulated_cluster cluster{.node_slots = {5, 4, 6, 5, 4}};
    cluster.calendar = {cluster.node_slots,
                        {.seed = seed, .losses = 12, .steps = 72, .steps_away_mean = 6, .slots_min = 12}};
    const auto steps = simulate(
        source_of({.shape = load_shape::node_loss, .seed = seed, .layers = 1, .experts = 12, .hours = 6, .zipf = 1.2}),
        cluster, policies);
    for (const auto& step : steps) {
      EXPECT_EQ(step.unserved_share, 0);
      steps_with_losses += step.nodes_away > 0 ? 1 : 0;
      const auto there = cluster.calendar.present(5, step.step);
      auto slot = step.expert_of_slot[0].begin();
      for (std::size_t n = 0; n < 5; ++n) {
        const std::vector<std::uint32_t> held(slot, slot + cluster.node_slots[n]);
        slot += cluster.node_slots[n];
        const auto empty = std::ranges::count(held, no_expert);
        EXPECT_TRUE(there[n] || empty == std::ssize(held));
        const std::set<std::uint32_t> distinct(held.begin(), held.end());
        EXPECT_EQ(std::ssize(distinct) - (empty > 0 ? 1 : 0), std::ssize(held) - empty) << "two replicas on one node";
      }
    }
  }
  EXPECT_GT(steps_with_losses, 50U);
}

TEST(simulation_report, writes_one_line_per_planner_and_step_and_a_picture) {
  const simulated_cluster cluster{.node_slots = {2, 2}, .expert_bytes = 10};
  const std::vector<placing> who{planner_settings{}, planner_settings{.kind = planner_kind::eplb, .eplb_every = 2}};
  const auto runs = simulate_loads(steady({3, 2, 2, 1}, 3), cluster, who, false).value();
  const auto csv = csv_text(runs);
  EXPECT_EQ(std::ranges::count(csv, '\n'), 7);
  EXPECT_THAT(csv, HasSubstr("\ntroupe,0,0.000000,0.000000,0.000,0.000,0,40,0,0.000000,0,0.000000\n"));
  EXPECT_THAT(csv, HasSubstr("\neplb every 2,2,"));
  const auto svg = plot_svg(runs, 5);
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns"));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr(">eplb every 2</text>"));
  EXPECT_THAT(svg, HasSubstr(">masked mass, % of the load</text>"));
  EXPECT_THAT(svg, testing::Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace troupe::cli
