#include "coordinator/core/explanation.hpp"

#include <gtest/gtest.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using kind = explained_replica::kind;

expert_id expert(std::uint32_t index) { return {layer_id::of(0), index}; }

core_harness three_nodes(std::uint32_t experts, durable_state durable = {}) {
  core_harness h(settings_of(experts, 1, 3), std::move(durable));
  for (const char* name : {"a", "b", "c"}) h.add_expert_node(name);
  h.add_router("r");
  h.converge();
  return h;
}

explanation of(const core_harness& h, std::uint32_t index) {
  return explain(h.state(), *h.state().find(expert(index)));
}

bool has(const std::vector<std::string>& lines, const std::string& part) {
  return std::ranges::any_of(lines, [&](const auto& line) { return line.find(part) != std::string::npos; });
}

std::string other_than(const std::string& node) { return node == "a" ? "b" : "a"; }

TEST(explanation, of_an_expert_at_rest) {
  auto h = three_nodes(4);
  h.step(stats_report{{"a"}, {1}, 0, 0, {{expert(0), 30, 1}, {expert(1), 10, 1}}});
  auto seen = of(h, 0);
  ASSERT_EQ(seen.replicas.size(), 1U);
  EXPECT_EQ(seen.replicas[0].state, kind::serving);
  EXPECT_EQ(seen.replicas[0].why, "first placement");
  EXPECT_DOUBLE_EQ(seen.share, 0.75);
  EXPECT_DOUBLE_EQ(seen.fair_share, 0.25);
  EXPECT_EQ(seen.rows_in_window, 30U);
  EXPECT_TRUE(has(seen.reasons, "1 replica is wanted: the cluster's replication"));
  EXPECT_TRUE(has(seen.reasons, "75.0 % of its layer's rows in the last 60 s, 3.00 times its fair share"));
  EXPECT_TRUE(seen.under_way.empty());
  EXPECT_TRUE(has(seen.would_change, "the planner moves it"));
  EXPECT_TRUE(has(of(h, 3).reasons, "no row chose it in the last 60 s"));
}

TEST(explanation, of_a_migration_under_way_and_after_it) {
  auto h = three_nodes(4);
  auto from = of(h, 0).replicas.at(0).node.value;
  auto to = other_than(from);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  h.pass(50ms);
  auto seen = of(h, 0);
  ASSERT_EQ(seen.replicas.size(), 2U);
  const auto& coming = seen.replicas[seen.replicas[0].node.value == to ? 0 : 1];
  EXPECT_EQ(coming.state, kind::loading);
  EXPECT_EQ(coming.why, "op-1: migrate");
  EXPECT_TRUE(has(seen.under_way, "op-1: migrate, reserve"));
  EXPECT_TRUE(has(seen.under_way, to + ": loading"));
  EXPECT_TRUE(has(seen.would_change, "troupe op cancel op-1"));
  h.converge();
  seen = of(h, 0);
  ASSERT_EQ(seen.replicas.size(), 1U);
  EXPECT_EQ(seen.replicas[0].node.value, to);
  EXPECT_TRUE(has(seen.reasons, "put on " + to + ": op-1"));
  EXPECT_TRUE(has(seen.would_change, "troupe expert unpin 0/0"));
  EXPECT_FALSE(has(seen.would_change, "the planner moves it"));
  EXPECT_TRUE(seen.under_way.empty());
}

TEST(explanation, of_pins_and_replicas_that_an_operator_wants) {
  auto h = three_nodes(4);
  ASSERT_TRUE(h.command(pin_expert{expert(0), true, false}));
  EXPECT_TRUE(has(of(h, 0).reasons, "pinned to "));
  EXPECT_TRUE(has(of(h, 0).would_change, "pinned by an operator; let the planner move it: troupe expert unpin 0/0"));
  ASSERT_TRUE(h.command(replicate_expert{expert(1), 2, false}));
  h.converge();
  auto seen = of(h, 1);
  EXPECT_EQ(seen.replicas.size(), 2U);
  EXPECT_TRUE(has(seen.reasons, "2 replicas are wanted: op-1"));
  EXPECT_TRUE(has(seen.would_change, "troupe expert replicate 0/1 --count 1"));
}

TEST(explanation, of_a_node_that_is_being_drained) {
  auto h = three_nodes(4);
  auto node = of(h, 0).replicas.at(0).node;
  ASSERT_TRUE(h.command(drain_node{node, false}));
  h.pass(50ms);
  EXPECT_TRUE(has(of(h, 0).would_change, "troupe node undrain " + node.value));
  h.converge();
  EXPECT_FALSE(has(of(h, 0).would_change, "undrain"));
}

TEST(explanation, a_pinned_expert_of_a_lost_node_goes_back) {
  auto h = three_nodes(4);
  auto node = of(h, 0).replicas.at(0).node;
  ASSERT_TRUE(h.command(pin_expert{expert(0), true, false}));
  h.stop_beating(node.value);
  h.converge();
  EXPECT_TRUE(has(of(h, 0).would_change, node.value + " is not there"));
}

TEST(explanation, after_a_restart_nobody_knows_why_a_replica_came) {
  auto first = three_nodes(2);
  core_harness h(settings_of(2, 1, 3), first.disk());
  for (const char* name : {"a", "b", "c"}) {
    h.join(name);
    h.beating[name] = 1;
    h.report(name, first.held[name]);
  }
  h.add_router("r");
  h.converge();
  auto seen = of(h, 0);
  ASSERT_EQ(seen.replicas.size(), 1U);
  EXPECT_EQ(seen.replicas[0].why, "there since before the coordinator's last start");
}

}  // namespace
}  // namespace troupe::coordinator::testing
