// Placement, make before break, restarts and failing disks, through the three doors of the state machine.
#include <gmock/gmock.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator {
namespace {

using namespace testing;
using ::testing::HasSubstr;

std::size_t loads_to(core_harness& cluster, const std::string& name) {
  auto messages = cluster.take_messages(name);
  return static_cast<std::size_t>(std::ranges::count_if(
      messages, [](const auto& message) { return std::holds_alternative<load_order>(message.what); }));
}
bool is_freed(core_harness& cluster, const std::string& name) {
  auto messages = cluster.take_messages(name);
  return std::ranges::any_of(messages,
                             [](const auto& message) { return std::holds_alternative<free_order>(message.what); });
}

TEST(placement, waits_for_the_announced_nodes) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.pass(1s);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 0U);
  cluster.add_expert_node("expert-1");
  cluster.pass(100ms);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 2U);
  EXPECT_EQ(loads_to(cluster, "expert-1"), 2U);
}

TEST(placement, does_not_wait_for_ever) {
  core_harness cluster(settings_of(4, 1, 3));
  cluster.add_expert_node("expert-0");
  cluster.pass(limits::first_placement_grace + 100ms);
  EXPECT_GT(loads_to(cluster, "expert-0"), 0U);
}

TEST(placement, bounds_the_loads_in_flight_of_a_node) {
  core_harness cluster(settings_of(20));
  cluster.add_expert_node("expert-0", 20);
  cluster.pass(200ms);
  EXPECT_EQ(loads_to(cluster, "expert-0"), limits::loads_per_node_max);
  cluster.converge();
  EXPECT_EQ(cluster.replicas_on("expert-0"), 20U);
}

TEST(placement, C13_more_replicas_than_nodes_is_degraded_not_refused) {
  core_harness cluster(settings_of(3, 2, 1));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  EXPECT_EQ(cluster.placement(), "0: expert-0 | 1: expert-0 | 2: expert-0");
  EXPECT_EQ(cluster.state().replicas_missing, 3U);
}

TEST(placement, orders_a_load_again_that_left_no_trace) {
  core_harness cluster(settings_of(1));
  cluster.add_expert_node("expert-0");
  cluster.pass(100ms);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 1U);
  cluster.pass(limits::order_resend_after + 600ms);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 1U) << "lost messages cost a pass";
}

TEST(placement, a_failed_load_is_tried_elsewhere_and_its_reason_kept) {
  core_harness cluster(settings_of(1, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.pass(100ms);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 1U);
  cluster.report("expert-0", {{{0}, {layer_id::of(0), 0}, {1}, reported_slot_state::failed, {}, 0, 0, "bit rot"}});
  cluster.pass(100ms);
  EXPECT_EQ(loads_to(cluster, "expert-1"), 1U);
  EXPECT_THAT(cluster.state().experts[0].last_failure, HasSubstr("bit rot"));
}

TEST(placement, C4_a_replica_with_another_digest_never_serves) {
  core_harness cluster(settings_of(1, 2, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.pass(100ms);
  cluster.obey("expert-0");
  cluster.report("expert-1", {{{0}, {layer_id::of(0), 0}, {1}, reported_slot_state::ready, digest_of(7), 0, 0, ""}});
  cluster.pass(200ms);
  EXPECT_EQ(cluster.placement(), "0: expert-0");
  EXPECT_TRUE(is_freed(cluster, "expert-1"));
}

TEST(loss, P7_a_lost_nodes_experts_are_loaded_elsewhere) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  ASSERT_EQ(cluster.replicas_on("expert-1"), 2U);
  cluster.stop_beating("expert-1");
  cluster.pass(limits::heartbeat_lost_after + 500ms);
  cluster.converge();
  EXPECT_EQ(cluster.replicas_on("expert-0"), 4U);
}

TEST(loss, P2_a_returning_node_gets_its_old_role_back) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.add_router("router-0");
  cluster.converge();
  auto before = cluster.placement();
  auto content = cluster.held["expert-1"];
  cluster.stop_beating("expert-1");
  cluster.pass(limits::heartbeat_lost_after + 500ms);
  cluster.converge();
  ASSERT_EQ(cluster.replicas_on("expert-0"), 4U);
  cluster.join("expert-1", 2);
  cluster.beating["expert-1"] = 2;
  cluster.report("expert-1", content);
  cluster.converge();
  EXPECT_EQ(cluster.placement(), before);
}

TEST(drain, A2_moves_everything_before_it_gives_anything_up) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.add_router("router-0");
  cluster.converge();
  cluster.pass(limits::restart_grace);
  auto outcome = cluster.command(drain_node{{"expert-1"}, false});
  ASSERT_TRUE(outcome) << outcome.error().message;
  EXPECT_EQ(outcome->state, "running");
  cluster.pass(200ms);
  EXPECT_EQ(cluster.replicas_on("expert-1"), 2U) << "the copies do not serve yet";
  cluster.obey("expert-0");
  cluster.pass(200ms);
  EXPECT_EQ(cluster.replicas_on("expert-1"), 2U) << "no router knows the copies yet";
  EXPECT_EQ(cluster.replicas_on("expert-0"), 4U);
  cluster.acknowledge("router-0");
  cluster.pass(limits::heartbeat_interval + 200ms);
  EXPECT_EQ(cluster.replicas_on("expert-1"), 0U);
  EXPECT_FALSE(is_freed(cluster, "expert-1")) << "the router may still use the old map";
  cluster.acknowledge("router-0");
  cluster.pass(200ms);
  EXPECT_TRUE(is_freed(cluster, "expert-1"));
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::draining);
}

TEST(drain, undrain_gives_the_node_work_again) {
  core_harness cluster(settings_of(8, 1, 2));
  cluster.add_expert_node("expert-0", 8);
  cluster.add_expert_node("expert-1", 8);
  cluster.add_router("router-0");
  cluster.converge();
  ASSERT_TRUE(cluster.command(drain_node{{"expert-1"}, false}));
  cluster.converge();
  ASSERT_EQ(cluster.replicas_on("expert-1"), 0U);
  ASSERT_TRUE(cluster.state().nodes.at({"expert-1"}).slots.empty());
  ASSERT_TRUE(cluster.command(undrain_node{{"expert-1"}, false}));
  cluster.converge();
  EXPECT_EQ(cluster.replicas_on("expert-1"), 4U);
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::serving);
}

TEST(drain, is_refused_with_numbers_when_there_is_no_room) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0", 3);
  cluster.add_expert_node("expert-1", 3);
  cluster.converge();
  auto outcome = cluster.command(drain_node{{"expert-1"}, false});
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, errc::conflict);
  EXPECT_THAT(outcome.error().message, HasSubstr("3 usable slots"));
  EXPECT_THAT(outcome.error().message, HasSubstr("4 experts"));
}

TEST(commands, A3_P4_the_same_command_has_one_answer_also_after_a_restart) {
  core_harness cluster(settings_of(2, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  auto first = cluster.command(drain_node{{"expert-1"}, false}, "uuid-1");
  ASSERT_TRUE(first);
  EXPECT_EQ(*cluster.command(drain_node{{"expert-1"}, false}, "uuid-1"), *first);
  auto again = cluster.command(drain_node{{"expert-1"}, false}, "uuid-2");
  ASSERT_TRUE(again);
  EXPECT_THAT(again->message, HasSubstr("already"));
  EXPECT_EQ(again->operation, first->operation);

  core_harness restarted(settings_of(2, 1, 2), cluster.disk());
  EXPECT_EQ(*restarted.command(drain_node{{"expert-1"}, false}, "uuid-1"), *first);
  EXPECT_TRUE(restarted.state().nodes.at({"expert-1"}).is_draining());
}

TEST(commands, D1_a_full_disk_refuses_commands_and_serving_goes_on) {
  core_harness cluster(settings_of(2, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  auto epoch = cluster.state().published->epoch;
  cluster.store_failure = error{errc::no_space, "cannot write /data/state.db: disk full"};
  auto refused = cluster.command(drain_node{{"expert-1"}, false}, "uuid-1");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::no_space);
  EXPECT_FALSE(cluster.state().nodes.at({"expert-1"}).is_draining()) << "refused means nothing has happened";
  EXPECT_TRUE(cluster.state().alarm);
  cluster.pass(5s);
  EXPECT_EQ(cluster.state().published->epoch, epoch);
  cluster.store_failure.reset();
  cluster.pass(2s);
  EXPECT_FALSE(cluster.state().alarm) << "it clears itself";
  EXPECT_TRUE(cluster.command(drain_node{{"expert-1"}, false}, "uuid-1"));
}

TEST(commands, A1_remove_refuses_a_node_with_last_replicas) {
  core_harness cluster(settings_of(2, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  auto refused = cluster.command(remove_node{{"expert-1"}, false, false});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_THAT(refused.error().message, HasSubstr("last replica of 1 experts"));
  ASSERT_TRUE(cluster.command(remove_node{{"expert-1"}, true, true})) << "a dry run says what would happen";
  EXPECT_EQ(cluster.replicas_on("expert-1"), 1U);
  ASSERT_TRUE(cluster.command(remove_node{{"expert-1"}, false, true}));
  cluster.converge();
  EXPECT_EQ(cluster.placement(), "0: expert-0 | 1: expert-0");
  cluster.join("expert-1", 1);
  EXPECT_EQ(cluster.reply_to_join("expert-1").refused->code, errc::permission_denied);
  cluster.join("expert-1", 2);
  EXPECT_FALSE(cluster.reply_to_join("expert-1").refused) << "a fresh start may join";
}

TEST(commands, A7_an_unknown_node_is_named_with_those_that_there_are) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  auto unknown = cluster.command(drain_node{{"expert-7"}, false});
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().code, errc::not_found);
  EXPECT_THAT(unknown.error().message, HasSubstr("expert-0"));
}

TEST(restart, finds_the_same_epoch_and_digests_and_raises_the_term) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  const auto before = *cluster.state().published;

  core_harness restarted(settings_of(4, 1, 2), cluster.disk());
  EXPECT_EQ(restarted.state().term.value, before.term.value + 1);
  for (const auto* name : {"expert-0", "expert-1"}) {
    restarted.join(name);
    restarted.beating[name] = 1;
    restarted.report(name, cluster.held[name]);
  }
  restarted.add_router("router-0");
  restarted.converge();
  EXPECT_EQ(restarted.state().published->epoch, before.epoch);
  EXPECT_EQ(restarted.state().published->experts, before.experts);
  EXPECT_EQ(restarted.state().published->nodes, before.nodes);
}

TEST(restart, loads_elsewhere_what_did_not_come_back) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  core_harness restarted(settings_of(4, 1, 2), cluster.disk());
  restarted.join("expert-0");
  restarted.beating["expert-0"] = 1;
  restarted.report("expert-0", cluster.held["expert-0"]);
  restarted.pass(limits::restart_grace - 500ms);
  EXPECT_EQ(restarted.replicas_on("expert-1"), 2U) << "routers may reach it, so it stays in the map";
  restarted.converge();
  EXPECT_EQ(restarted.replicas_on("expert-0"), 4U);
}

TEST(restart, refuses_a_store_of_another_cluster_or_model) {
  core_harness cluster(settings_of(2));
  auto other = settings_of(2);
  other.cluster_id = "elsewhere";
  EXPECT_EQ(cluster_state_machine::create(other, cluster.disk(), cluster.now).error().code, errc::conflict);
  other = settings_of(2);
  other.model_fingerprint = "model-b";
  EXPECT_EQ(cluster_state_machine::create(other, cluster.disk(), cluster.now).error().code, errc::conflict);
}

TEST(restart, an_inventory_from_before_it_does_not_count) {
  core_harness cluster(settings_of(1));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  core_harness restarted(settings_of(1), cluster.disk());
  restarted.join("expert-0");
  restarted.beating["expert-0"] = 1;
  restarted.step(inventory_report{{"expert-0"}, {1}, 99, {1}, {}});  // of term 1: empty
  restarted.pass(200ms);
  EXPECT_EQ(restarted.replicas_on("expert-0"), 1U);
}

TEST(stopping, a_stopped_cluster_repairs_nothing) {
  core_harness cluster(settings_of(2, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  ASSERT_TRUE(cluster.command(stop_cluster{}));
  cluster.step(leave_request{{"expert-1"}, {1}});
  cluster.pass(1s);
  EXPECT_EQ(loads_to(cluster, "expert-0"), 0U);
}

TEST(traffic, shares_are_of_the_window_and_repeated_reports_count_once) {
  traffic_window window;
  time_point now{std::chrono::hours(1)};
  expert_id expert{layer_id::of(0), 1};
  window.report({"expert-0"}, {1}, expert, 100, now);
  window.report({"expert-0"}, {1}, expert, 100, now);
  window.report({"expert-0"}, {1}, expert, 60, now);
  EXPECT_EQ(window.of(expert, now).rows_total, 100U);
  window.report({"expert-0"}, {2}, expert, 5, now);
  EXPECT_EQ(window.of(expert, now).rows_in_window, 105U);
  now += limits::traffic_window + 1s;
  EXPECT_EQ(window.of(expert, now).rows_in_window, 0U);
  EXPECT_EQ(window.of(expert, now).rows_total, 105U);
  EXPECT_TRUE(window.of(expert, now).last_used);
}

}  // namespace
}  // namespace troupe::coordinator
