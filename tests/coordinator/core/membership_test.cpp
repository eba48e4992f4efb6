#include <gmock/gmock.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator {
namespace {

using namespace testing;
using ::testing::HasSubstr;

TEST(membership, takes_in_a_node_and_serves_with_it_once_it_has_reported) {
  core_harness cluster(settings_of(2));
  cluster.join("expert-0");
  EXPECT_FALSE(cluster.reply_to_join("expert-0").refused);
  cluster.beating["expert-0"] = 1;
  cluster.pass(300ms);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::joining);
  cluster.report("expert-0", {});
  cluster.pass(100ms);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::serving);
}

TEST(membership, P11_refuses_a_node_of_another_cluster) {
  core_harness cluster(settings_of(2));
  auto facts = core_harness::facts_of("expert-0", 1, node_role::expert, 4);
  cluster.join_with({"peer", "elsewhere", {"expert-0"}, {1}, facts});
  auto reply = cluster.reply_to_join("expert-0");
  ASSERT_TRUE(reply.refused);
  EXPECT_EQ(reply.refused->code, errc::wrong_cluster);
  EXPECT_THAT(reply.refused->message, HasSubstr("belongs to cluster elsewhere, this is here"));
}

TEST(membership, refuses_another_model_no_slots_and_another_dtype) {
  core_harness cluster(settings_of(2));
  auto facts = core_harness::facts_of("expert-0", 1, node_role::expert, 4);
  facts.model_fingerprint = "model-b";
  cluster.join_with({"p", "here", {"expert-0"}, {1}, facts});
  EXPECT_EQ(cluster.reply_to_join("expert-0").refused->code, errc::conflict);

  facts = core_harness::facts_of("expert-0", 1, node_role::expert, 0);
  cluster.join_with({"p", "here", {"expert-0"}, {1}, facts});
  EXPECT_EQ(cluster.reply_to_join("expert-0").refused->code, errc::invalid_request);

  cluster.add_expert_node("expert-0");
  facts = core_harness::facts_of("expert-1", 1, node_role::expert, 4);
  facts.dtype = "bf16";
  cluster.join_with({"p", "here", {"expert-1"}, {1}, facts});
  EXPECT_THAT(cluster.reply_to_join("expert-1").refused->message, HasSubstr("same --dtype"));
}

TEST(membership, C12_refuses_a_second_living_node_of_one_name_with_both_addresses) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  static_cast<void>(cluster.take_messages("expert-0"));
  auto facts = core_harness::facts_of("expert-0", 2, node_role::expert, 4);
  facts.data_address = "tcp://10.0.0.9:7000";
  cluster.join_with({"second", "here", {"expert-0"}, {2}, facts});
  cluster.pass(600ms);  // the first one goes on beating
  auto reply = cluster.reply_to_join("expert-0");
  ASSERT_TRUE(reply.refused);
  EXPECT_EQ(reply.refused->code, errc::conflict);
  EXPECT_THAT(reply.refused->message, HasSubstr("ipc:///expert-0.data.ipc"));
  EXPECT_THAT(reply.refused->message, HasSubstr("tcp://10.0.0.9:7000"));
  EXPECT_EQ(cluster.state().nodes.at({"expert-0"}).incarnation.value, 1U);
}

TEST(membership, lets_a_restarted_process_take_over_its_name) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  cluster.stop_beating("expert-0");
  static_cast<void>(cluster.take_messages("expert-0"));
  cluster.join("expert-0", 2);
  cluster.pass(1100ms);
  EXPECT_FALSE(cluster.reply_to_join("expert-0").refused);
  EXPECT_EQ(cluster.state().nodes.at({"expert-0"}).incarnation.value, 2U);
  EXPECT_TRUE(cluster.state().nodes.at({"expert-0"}).slots.empty()) << "what the old process held is gone";
}

TEST(membership, counts_heartbeats_that_do_not_come_and_processes_that_come_anew) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  const auto entry = [&]() -> const node_entry& { return cluster.state().nodes.at({"expert-0"}); };
  cluster.pass(2s);
  EXPECT_EQ(entry().missed.total(), 0U);
  cluster.stop_beating("expert-0");
  cluster.pass(1s);
  EXPECT_EQ(entry().missed.total(), 4U) << "five intervals, and one is only late";
  cluster.beating["expert-0"] = 1;
  cluster.pass(1s);
  EXPECT_EQ(entry().missed.total(), 4U);
  cluster.stop_beating("expert-0");
  cluster.pass(600ms);
  EXPECT_EQ(entry().missed.total(), 6U);
  EXPECT_EQ(entry().restarts, 0U);

  cluster.pass(5s);
  cluster.add_expert_node("expert-0", 8, 2);
  EXPECT_EQ(entry().restarts, 1U);
  EXPECT_GE(entry().missed.total(), 6U) << "kept for the name";
  auto facts = entry().facts;  // the same process, declared lost, under its next incarnation
  cluster.join_with({"peer", "here", {"expert-0"}, {3}, facts});
  EXPECT_EQ(entry().incarnation.value, 3U);
  EXPECT_EQ(entry().restarts, 1U);
}

TEST(membership, suspects_then_loses_a_silent_node) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  cluster.stop_beating("expert-0");
  cluster.pass(1500ms);
  EXPECT_TRUE(std::holds_alternative<node_suspect>(cluster.state().nodes.at({"expert-0"}).life));
  EXPECT_EQ(cluster.replicas_on("expert-0"), 2U) << "silence of a second changes nothing";
  cluster.pass(2000ms);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::lost);
  EXPECT_EQ(cluster.replicas_on("expert-0"), 0U);
}

TEST(membership, P2_a_lost_node_must_come_back_with_a_new_incarnation) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  auto content = cluster.held["expert-0"];
  cluster.stop_beating("expert-0");
  cluster.pass(4s);
  cluster.join("expert-0", 1);
  EXPECT_EQ(cluster.reply_to_join("expert-0").refused->code, errc::stale_epoch);

  cluster.join("expert-0", 2);
  cluster.beating["expert-0"] = 2;
  cluster.report("expert-0", content);
  cluster.pass(1s);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::joining) << "N9: it must be heard steadily first";
  cluster.pass(1500ms);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::serving);
  EXPECT_EQ(cluster.replicas_on("expert-0"), 2U) << "what it verified before is used again";
  for (const auto& message : cluster.take_messages("expert-0")) {
    EXPECT_FALSE(std::holds_alternative<load_order>(message.what));
  }
}

TEST(membership, N9_a_flapping_node_gets_no_work) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  cluster.stop_beating("expert-0");
  cluster.pass(4s);
  cluster.join("expert-0", 2);
  for (int i = 0; i < 4; ++i) {
    cluster.beating["expert-0"] = 2;
    cluster.report("expert-0", {});
    cluster.pass(1s);
    cluster.stop_beating("expert-0");
    cluster.pass(1500ms);
    EXPECT_EQ(cluster.state_of("expert-0"), node_state::joining);
  }
}

TEST(membership, P8_a_crash_loop_ends_in_quarantine) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  for (std::uint64_t incarnation = 2; incarnation <= 6; ++incarnation) {
    cluster.stop_beating("expert-0");
    cluster.pass(1500ms);
    cluster.join("expert-0", incarnation);
    cluster.beating["expert-0"] = incarnation;
  }
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::quarantined);
  cluster.report("expert-0", {});
  cluster.pass(limits::quarantine_pause + 3s);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::serving);
}

// The same process each time: what a chaos run does to a node with SIGSTOP and SIGCONT.
TEST(membership, P8_a_node_that_freezes_again_and_again_is_left_out_for_a_while) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  for (std::uint64_t incarnation = 2; incarnation <= 6; ++incarnation) {
    cluster.stop_beating("expert-0");
    cluster.pass(limits::heartbeat_lost_after + 1s);
    EXPECT_EQ(cluster.state_of("expert-0"), node_state::lost);
    cluster.join("expert-0", incarnation);
    cluster.beating["expert-0"] = incarnation;
    cluster.report("expert-0", {});
  }
  cluster.pass(limits::quarantine_pause - 1s);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::quarantined) << "awake for a minute, and still without work";
  cluster.pass(limits::heartbeat_readmit_after + 2s);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::serving);
}

TEST(membership, what_routers_make_of_a_nodes_pace_becomes_events) {
  core_harness cluster(settings_of(4, 2));
  for (const auto* name : {"expert-0", "expert-1"}) cluster.add_expert_node(name);
  cluster.add_router("router-0");
  cluster.converge();
  const auto say = [&](std::vector<pace_report> paces) {
    stats_report report{{"router-0"}, {1}, 0, 0, {}};
    report.paces = std::move(paces);
    cluster.step(report);
  };
  const auto told = [&] {
    std::vector<std::string> texts;
    for (const auto& e : cluster.events) {
      if (e.kind.starts_with("node_pace_")) texts.push_back(e.kind + ": " + e.text);
    }
    return texts;
  };
  say({});
  say({{{"expert-1"}, node_pace::slow, "5 x"}});
  say({{{"expert-1"}, node_pace::slow, "5 x"}, {{"nobody"}, node_pace::slow, "7 x"}});
  EXPECT_EQ(told(), std::vector<std::string>{"node_pace_slow: expert-1 is slow for router-0: 5 x"});
  say({{{"expert-1"}, node_pace::quarantined, "9 x"}});
  say({{{"expert-1"}, node_pace::normal, "1.1 x"}});
  say({{{"expert-1"}, node_pace::normal, "1.1 x"}});
  EXPECT_EQ(told(), (std::vector<std::string>{"node_pace_slow: expert-1 is slow for router-0: 5 x",
                                              "node_pace_quarantined: expert-1 is quarantined for router-0: 9 x",
                                              "node_pace_normal: expert-1 is normal for router-0: 1.1 x"}));
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::serving) << "others may find it fast enough";
}

TEST(membership, G3_a_node_whose_device_is_lost_is_left_out_until_it_is_started_anew) {
  core_harness cluster(settings_of(4, 2));
  for (const auto* name : {"expert-0", "expert-1", "expert-2"}) cluster.add_expert_node(name);
  cluster.add_router("router-0");
  cluster.converge();
  for (const auto& expert : cluster.state().experts) ASSERT_EQ(places_of(cluster.state(), expert.id).size(), 2U);

  cluster.report_loss("expert-1", "an illegal memory access was encountered");
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::quarantined);
  cluster.converge();
  for (const auto& expert : cluster.state().experts) {
    const auto places = places_of(cluster.state(), expert.id);
    EXPECT_EQ(places.size(), 2U) << to_string(expert.id);
    EXPECT_EQ(std::ranges::count(places, node_id{"expert-1"}), 0) << to_string(expert.id);
  }
  cluster.pass(limits::quarantine_pause + limits::heartbeat_readmit_after + 3s);
  cluster.report_loss("expert-1", "an illegal memory access was encountered");
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::quarantined) << "time alone heals no device";
  const auto told = std::ranges::count(cluster.events, std::string{"node_quarantined"}, &operator_event::kind);
  EXPECT_EQ(told, 1) << "and it is told once";

  cluster.beating["expert-1"] = 2;
  cluster.join("expert-1", 2);
  cluster.pass(limits::heartbeat_suspect_after + 1s);
  cluster.report("expert-1", {});
  cluster.pass(limits::heartbeat_readmit_after + 1s);
  EXPECT_EQ(cluster.state_of("expert-1"), node_state::serving);
}

TEST(membership, K3_its_own_pause_makes_nobody_lost) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  cluster.now += 60s;  // the coordinator was suspended
  cluster.pass(100ms);
  EXPECT_EQ(cluster.state_of("expert-0"), node_state::serving);
}

TEST(membership, an_orderly_leave_of_an_empty_drained_node_forgets_it) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.add_router("router-0");
  cluster.converge();
  ASSERT_TRUE(cluster.command(drain_node{{"expert-0"}, false}));
  cluster.converge();
  cluster.step(leave_request{{"expert-0"}, {1}});
  EXPECT_FALSE(cluster.state().nodes.contains({"expert-0"}));
}

}  // namespace
}  // namespace troupe::coordinator
