#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "cli/simulation/load_simulation.hpp"
#include "cli/simulation/simulation_report.hpp"
#include "cli/simulation/synthetic_loads.hpp"

namespace troupe::cli {
namespace {

using coordinator::no_expert;

constexpr auto shapes = {load_shape::zipf, load_shape::drift, load_shape::domain_shift, load_shape::flash_crowd,
                         load_shape::node_loss};

synthetic_settings small(load_shape shape, std::uint64_t seed = 1) {
  return {.shape = shape, .seed = seed, .layers = 2, .experts = 16, .hours = 6};
}

std::vector<step_loads> all_steps(const synthetic_settings& settings) {
  std::vector<step_loads> steps;
  source_of(settings).each_step([&](std::uint32_t step, const step_loads& loads) {
    EXPECT_EQ(step, steps.size());
    steps.push_back(loads);
  });
  return steps;
}

TEST(synthetic_loads, replay_by_seed_and_keep_their_sum) {
  for (auto shape : shapes) {
    const auto steps = all_steps(small(shape));
    ASSERT_EQ(steps.size(), 72U);
    EXPECT_EQ(steps, all_steps(small(shape)));
    EXPECT_NE(steps, all_steps(small(shape, 2)));
    for (const auto& step : steps) {
      for (const auto& layer : step) {
        EXPECT_NEAR(std::accumulate(layer.begin(), layer.end(), 0.0), 5 * synthetic_loads::rows_per_minute, 1);
      }
    }
  }
}

TEST(synthetic_loads, without_noise_are_exactly_zipf) {
  auto settings = small(load_shape::zipf);
  settings.noise = 0;
  settings.experts = 3;
  settings.zipf = 1;
  for (auto step : all_steps(settings)) {
    for (auto& layer : step) {
      std::ranges::sort(layer, std::greater{});
      EXPECT_NEAR(layer[0] / layer[1], 2, 1e-9);
      EXPECT_NEAR(layer[0] / layer[2], 3, 1e-9);
    }
  }
}

// Total variation between the first layer's distributions: 0 alike, 1 nothing in common.
double distance(const step_loads& a, const step_loads& b) {
  double sum = 0;
  for (std::size_t e = 0; e < a[0].size(); ++e) sum += std::abs(a[0][e] - b[0][e]);
  return sum / 2 / (5 * synthetic_loads::rows_per_minute);
}

TEST(synthetic_loads, change_as_their_shape_says) {
  auto furthest = [](load_shape shape) {
    auto settings = small(shape);
    settings.noise = 0;
    settings.hours = 24;
    const auto steps = all_steps(settings);
    double most = 0;
    for (const auto& step : steps) most = std::max(most, distance(steps[0], step));
    return most;
  };
  EXPECT_LT(furthest(load_shape::zipf), 1e-9);
  EXPECT_GT(furthest(load_shape::drift), 0.1);
  EXPECT_GT(furthest(load_shape::domain_shift), 0.1);
  EXPECT_GT(furthest(load_shape::flash_crowd), 0.1);
}

TEST(node_calendar, leaves_enough_slots_and_each_loss_ends) {
  const std::vector<std::uint32_t> slots{4, 4, 4, 8};
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const node_calendar calendar{slots,
                                 {.seed = seed, .losses = 20, .steps = 50, .steps_away_mean = 5, .slots_min = 12}};
    EXPECT_FALSE(calendar.absences().empty());
    for (std::uint32_t step = 0; step < 50; ++step) {
      const auto there = calendar.present(4, step);
      std::uint32_t left = 0;
      for (std::size_t n = 0; n < 4; ++n) left += there[n] ? slots[n] : 0;
      EXPECT_GE(left, step == 0 ? 20U : 12U);
    }
    for (const auto& absence : calendar.absences()) EXPECT_LT(absence.from, absence.until);
  }
}

simulated_cluster cluster_of(std::vector<std::uint32_t> slots, std::uint64_t seed) {
  simulated_cluster cluster{.node_slots = std::move(slots), .expert_bytes = 10};
  cluster.calendar = {cluster.node_slots,
                      {.seed = seed, .losses = 12, .steps = 72, .steps_away_mean = 6, .slots_min = 16}};
  return cluster;
}

const std::vector<placing> everybody{
    planner_settings{.kind = planner_kind::troupe, .moves_max = 4},
    planner_settings{.kind = planner_kind::eplb, .eplb_every = 6},
    planner_settings{.kind = planner_kind::eplb_hierarchical, .machines = 2, .groups = 4},
    planner_settings{.kind = planner_kind::keep}};

TEST(load_simulation, plans_nothing_onto_nodes_that_are_lost) {
  std::uint32_t steps_with_losses = 0;
  for (std::uint64_t seed = 0; seed < 10; ++seed) {
    const auto cluster = cluster_of({6, 6, 6, 6, 6, 6}, seed);
    const auto runs = simulate_loads(source_of(small(load_shape::node_loss, seed)), cluster, everybody, true).value();
    for (const auto& run : runs) {
      for (const auto& step : run.steps) {
        const auto there = cluster.calendar.present(6, step.step);
        EXPECT_EQ(step.nodes_away, std::ranges::count(there, false));
        steps_with_losses += step.nodes_away > 0 ? 1 : 0;
        for (const auto& layer : step.expert_of_slot) {
          ASSERT_EQ(layer.size(), 36U);
          for (std::size_t slot = 0; slot < layer.size(); ++slot) {
            EXPECT_TRUE(there[slot / 6] || layer[slot] == no_expert);
          }
        }
        const bool keeps_placement = &run == &runs.back();
        EXPECT_TRUE(keeps_placement || step.unserved_share == 0);
      }
    }
  }
  EXPECT_GT(steps_with_losses, 100U);
}

TEST(load_simulation, replays_to_the_same_digest) {
  auto digests = [](load_shape shape, std::uint64_t seed) {
    std::vector<std::uint64_t> found;
    const auto cluster = cluster_of({6, 6, 6, 6}, seed);
    const auto runs = simulate_loads(source_of(small(shape, seed)), cluster, everybody, false).value();
    for (const auto& run : runs) found.push_back(run.digest);
    return found;
  };
  for (auto shape : shapes) {
    const auto first = digests(shape, 1);
    EXPECT_EQ(first, digests(shape, 1));
    const auto other = digests(shape, 2);
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_NE(first[i], other[i]);
  }
}

// A layer of 4 experts on 2 nodes of 2 slots: first 3 1 | 2 2 (or the like), 4 on each; then expert 0 has 5 instead
// of 3.
load_source two_steps() {
  return {{0}, {4}, 2, [](const step_visitor& use) {
            use(0, {{3, 2, 2, 1}});
            use(1, {{5, 2, 2, 0.01}});
          }};
}

TEST(load_simulation, has_the_figures_of_a_case_done_by_hand) {
  const simulated_cluster cluster{.node_slots = {2, 2}, .expert_bytes = 10};
  const std::vector<placing> keep{planner_settings{.kind = planner_kind::keep}};
  const auto run = simulate_loads(two_steps(), cluster, keep, true).value().front();
  ASSERT_EQ(run.steps.size(), 2U);
  EXPECT_NEAR(run.steps[0].imbalance_mean, 0, 1e-12);
  EXPECT_EQ(run.steps[0].cold_experts, 0U);
  EXPECT_EQ(run.steps[0].resident_bytes, 40U);
  // 5.01 and 4, mean 4.505
  EXPECT_NEAR(run.steps[1].imbalance_mean, 5.01 / 4.505 - 1, 1e-12);
  EXPECT_EQ(run.steps[1].imbalance_mean, run.steps[1].imbalance_max);
  EXPECT_EQ(run.steps[1].cold_experts, 1U);
  EXPECT_EQ(run.steps[1].moved_bytes, 0U);
  const auto all = summarize(run, 1);
  EXPECT_NEAR(all.imbalance_mean, (5.01 / 4.505 - 1) / 2, 1e-12);
  EXPECT_EQ(all.cold_experts, 0.5);
}

TEST(load_simulation, a_lost_node_takes_its_load_and_costs_a_copy_when_it_returns) {
  simulated_cluster cluster{.node_slots = {2, 2}, .expert_bytes = 10};
  // Drawn until exactly node 0 or 1 is away in step 1 only.
  const load_source source{{0}, {2}, 3, [](const step_visitor& use) {
                             for (std::uint32_t step = 0; step < 3; ++step) use(step, {{3, 1}});
                           }};
  auto is_wanted = [](const node_calendar& calendar) {
    return calendar.absences().size() == 1 && calendar.absences()[0].from == 1 && calendar.absences()[0].until == 2;
  };
  for (std::uint64_t seed = 0; !is_wanted(cluster.calendar); ++seed) {
    ASSERT_LT(seed, 1000U);
    cluster.calendar = {cluster.node_slots,
                        {.seed = seed, .losses = 1, .steps = 3, .steps_away_mean = 0.1, .slots_min = 2}};
  }
  const std::vector<placing> keep{planner_settings{.kind = planner_kind::keep}};
  const auto steps = simulate_loads(source, cluster, keep, false).value().front().steps;
  // Both nodes hold both experts: the other one serves everything meanwhile.
  EXPECT_EQ(steps[1].nodes_away, 1U);
  EXPECT_EQ(steps[1].unserved_share, 0);
  EXPECT_EQ(steps[1].resident_bytes, 20U);
  EXPECT_EQ(steps[1].moves_per_layer, 0);
  EXPECT_EQ(steps[2].moves_per_layer, 2);
  EXPECT_EQ(steps[2].moved_bytes, 20U);
  EXPECT_EQ(steps[2].resident_bytes, 40U);
}

TEST(load_simulation, in_hindsight_plans_for_the_step_before) {
  simulated_cluster cluster{.node_slots = {2, 2}};
  const std::vector<placing> troupe{planner_settings{.kind = planner_kind::troupe}};
  const load_source source{{0}, {4}, 2, [](const step_visitor& use) {
                             use(0, {{1, 1, 0, 0}});
                             use(1, {{1, 0, 1, 0}});
                           }};
  EXPECT_NEAR(simulate_loads(source, cluster, troupe, false)->front().steps[1].imbalance_mean, 0, 1e-12);
  cluster.hindsight = true;
  const auto late = simulate_loads(source, cluster, troupe, false)->front().steps;
  EXPECT_NEAR(late[0].imbalance_mean, 0, 1e-12);
  EXPECT_EQ(late[1].moves_per_layer, 0);
}

}  // namespace
}  // namespace troupe::cli
