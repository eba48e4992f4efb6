// Other weights for experts that serve: layer by layer, taken back, refused, resumed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/core/operations.hpp"
#include "tests/coordinator/core/refresh_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::HasSubstr;

TEST(refresh, a_layer_goes_over_as_a_whole_and_the_next_one_after_it) {
  auto h = two_nodes();
  auto answer = h.command(from_folder({0, 2}));
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_EQ(answer->experts, 4U);
  EXPECT_EQ(answer->bytes_to_move, 400U);
  std::vector<std::string> seen;
  for (int round = 0; round < 200; ++round) {
    h.pass(std::chrono::milliseconds(50));
    // One node after the other, so that a layer is half loaded for a while.
    static_cast<void>(h.obey(round % 2 == 0 ? "a" : "b"));
    if (round % 5 == 0) h.acknowledge("r");
    if (seen.empty() || seen.back() != served(h)) seen.push_back(served(h));
  }
  EXPECT_THAT(seen, ::testing::ElementsAre("1 1 1 | 1 1 1", "2 1 2 | 1 1 1", "2 1 2 | 2 1 2"));
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(slots_used(h), 6U) << "the old version is freed";
  EXPECT_EQ(h.state().sources.at({2}).folder, "/next");
  EXPECT_EQ(h.state().sources.at({2}).state, operation_state::done);
}

TEST(refresh, says_how_much_the_outputs_of_a_layer_change) {
  const auto told = [](const core_harness& h) {
    std::vector<std::string> texts;
    for (const auto& e : h.events) {
      if (e.kind == "refresh_compared") texts.push_back(e.text);
    }
    return texts;
  };
  auto h = two_nodes();
  h.difference = output_difference{10, 0.02, 0.25};
  ASSERT_TRUE(h.command(from_folder({0, 2})));
  h.converge();
  ASSERT_EQ(told(h).size(), 2U) << "one per layer";
  EXPECT_EQ(
      told(h)[0],
      "layer 0 goes over to other weights: 2 of 2 experts compared with what they were on 20 rows they were asked "
      "for; their outputs differ by 0.02 of their norm on average, by 0.25 at most (expert 0/0)");
  EXPECT_THAT(told(h)[1], HasSubstr("layer 1 goes over"));
  auto silent = two_nodes();
  ASSERT_TRUE(silent.command(from_folder({1})));
  silent.converge();
  EXPECT_THAT(told(silent)[0], HasSubstr("1 experts, and no rows were at hand to compare them on"));
}

TEST(refresh, new_replicas_are_loaded_from_the_folder_with_their_digest) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({1})));
  h.pass(1s);
  std::size_t loads = 0;
  for (const char* node : {"a", "b"}) {
    for (const auto& message : h.take_messages(node)) {
      const auto* load = std::get_if<load_order>(&message.what);
      if (load == nullptr) continue;
      ++loads;
      EXPECT_EQ(load->folder, "/next");
      EXPECT_EQ(load->version.value, 2U);
      EXPECT_EQ(load->digest.value()[31], std::byte{7});
    }
  }
  EXPECT_GE(loads, 1U);
}

TEST(refresh, the_old_version_stays_until_every_router_knows) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0})));
  for (int round = 0; round < 40; ++round) {
    h.pass(std::chrono::milliseconds(50));
    for (const char* node : {"a", "b"}) static_cast<void>(h.obey(node));
  }
  EXPECT_EQ(served(h), "2 1 1 | 1 1 1");
  EXPECT_EQ(slots_used(h), 7U) << "the router may still use the old replica";
  EXPECT_EQ(operations::look(h.state(), newest(h)).at, operations::step::drain);
  h.converge();
  EXPECT_EQ(served(h), "2 1 1 | 2 1 1");
}

// -- pinned texts

bool was_told(const core_harness& h, std::string_view kind) {
  return std::ranges::any_of(h.events, [&](const operator_event& e) { return e.kind == kind; });
}

TEST(refresh, what_texts_are_pinned_to_stays_until_they_have_ended) {
  auto h = two_nodes();
  h.pinned_to["r"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0, 2})));
  h.converge();
  EXPECT_EQ(served(h), "2 1 2 | 2 1 2");
  EXPECT_EQ(newest(h).state, operation_state::done) << "it does not wait for texts";
  EXPECT_EQ(slots_used(h), 10U) << "both versions of the four experts";
  h.pass(5min);
  h.converge();
  EXPECT_EQ(slots_used(h), 10U);
  h.pinned_to.clear();
  h.converge();
  EXPECT_EQ(slots_used(h), 6U);
  EXPECT_FALSE(was_told(h, "version_given_up"));
}

TEST(refresh, texts_that_began_between_two_layers_hold_only_the_second) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0})));
  for (int round = 0; round < 200 && served(h) != "2 1 1 | 1 1 1"; ++round) {
    h.pass(50ms);
    for (const char* node : {"a", "b"}) static_cast<void>(h.obey(node));
    h.acknowledge("r");
  }
  ASSERT_EQ(served(h), "2 1 1 | 1 1 1");
  h.pinned_to["r"] = h.state().published->epoch;
  h.converge();
  EXPECT_EQ(served(h), "2 1 1 | 2 1 1");
  EXPECT_EQ(slots_used(h), 7U);
}

TEST(refresh, what_texts_are_pinned_to_is_given_up_after_the_limit) {
  auto h = two_nodes();
  h.pinned_to["r"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0})));
  h.converge();
  EXPECT_EQ(slots_used(h), 8U);
  h.pass(limits::pinned_versions_kept_max);
  h.converge();
  EXPECT_EQ(slots_used(h), 6U);
  EXPECT_TRUE(was_told(h, "version_given_up"));
}

TEST(refresh, a_router_that_is_gone_holds_nothing) {
  auto h = two_nodes();
  h.add_router("q");
  h.pinned_to["q"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0})));
  h.converge();
  EXPECT_EQ(slots_used(h), 8U);
  h.stop_beating("q");
  h.converge();
  EXPECT_EQ(slots_used(h), 6U);
}

TEST(refresh, goes_on_without_room_when_pinned_texts_have_ended) {
  auto h = two_nodes(5);  // of 6 replicas: room for one layer beside what there is
  h.pinned_to["r"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0, 1, 2})));
  h.converge();
  EXPECT_EQ(served(h), "2 2 2 | 1 1 1") << "no slot is free for the second layer";
  EXPECT_EQ(newest(h).state, operation_state::running);
  h.pinned_to.clear();
  h.converge();
  EXPECT_EQ(served(h), "2 2 2 | 2 2 2");
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(slots_used(h), 6U);
}

TEST(placement_rollback, takes_up_again_what_texts_held) {
  auto h = two_nodes();
  auto before = h.state().published->epoch;
  h.pinned_to["r"] = before;
  ASSERT_TRUE(h.command(from_folder({0})));
  h.converge();
  ASSERT_EQ(served(h), "2 1 1 | 2 1 1");
  for (const char* node : {"a", "b"}) static_cast<void>(h.take_messages(node));
  ASSERT_TRUE(h.command(roll_back_placement{before}));
  h.pass(1s);
  for (const char* node : {"a", "b"}) {
    for (const auto& message : h.take_messages(node)) {
      EXPECT_FALSE(std::holds_alternative<load_order>(message.what)) << "nothing is loaded anew";
    }
  }
  h.converge();
  EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
}

TEST(refresh, pinned_texts_keep_their_version_over_a_restart_of_the_coordinator) {
  auto h = two_nodes();
  h.pinned_to["r"] = h.state().published->epoch;
  ASSERT_TRUE(h.command(from_folder({0})));
  h.converge();
  auto again = restarted(h);
  again.converge();
  EXPECT_EQ(slots_used(again), 8U);
  again.pinned_to.clear();
  again.converge();
  EXPECT_EQ(slots_used(again), 6U);
}

TEST(refresh, the_same_weights_change_nothing) {
  auto h = two_nodes();
  auto answer = h.command(from_folder({}));
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_EQ(answer->state, "done");
  EXPECT_TRUE(answer->operation.empty());
  EXPECT_TRUE(h.state().operations.empty());
}

TEST(refresh, only_the_named_layer) {
  auto h = two_nodes();
  auto refresh = from_folder({0, 1});
  refresh.layer = layer_id::of(1);
  ASSERT_TRUE(h.command(refresh));
  h.converge();
  EXPECT_EQ(served(h), "1 1 1 | 2 2 1");
  refresh.layer = layer_id::of(9);
  EXPECT_THAT(why(h.command(refresh)), HasSubstr("layer 9 is no MoE layer"));
}

TEST(refresh, what_is_wrong_with_the_folder_is_the_answer) {
  auto h = two_nodes();
  auto refresh = from_folder({});
  refresh.found = fail(errc::corrupt, "expert 0/1 has SHA-256 aa, the manifest says bb");
  auto answer = h.command(refresh);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, errc::corrupt);
  EXPECT_TRUE(h.state().operations.empty());
  EXPECT_TRUE(h.state().sources.empty());
}

TEST(refresh, a_full_disk_refuses_it) {
  auto h = two_nodes();
  h.store_failure = error{errc::no_space, "disk full"};
  auto answer = h.command(from_folder({0}));
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, errc::no_space);
  h.converge();
  EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
  h.store_failure.reset();
  h.converge();
  EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
  EXPECT_TRUE(h.state().operations.empty());
}

TEST(refresh, keeps_other_commands_off_its_experts_and_other_refreshes) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0})));
  EXPECT_THAT(why(h.command(migrate_expert{{layer_id::of(1), 0}, {"a"}, std::nullopt, false})), HasSubstr("op-1"));
  EXPECT_THAT(why(h.command(from_folder({1}))), HasSubstr("op-1 (refresh /next) is under way"));
}

TEST(refresh, cancelled_in_the_middle_it_goes_back) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0, 1})));
  for (int round = 0; round < 100 && served(h) != "2 2 1 | 1 1 1"; ++round) {
    h.pass(std::chrono::milliseconds(50));
    for (const char* node : {"a", "b"}) static_cast<void>(h.obey(node));
  }
  ASSERT_TRUE(h.command(cancel_operation{"op-1", false}));
  h.converge();
  EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
  EXPECT_EQ(newest(h).state, operation_state::cancelled);
  EXPECT_EQ(h.state().sources.at({2}).state, operation_state::cancelled);
  EXPECT_EQ(slots_used(h), 6U);
  // The number is not used again.
  ASSERT_TRUE(h.command(from_folder({2})));
  h.converge();
  EXPECT_EQ(served(h), "1 1 3 | 1 1 3");
}

TEST(refresh, weights_that_no_node_can_load_leave_the_old_ones) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0, 1})));
  for (int round = 0; round < 3000 && newest(h).state == operation_state::running; ++round) {
    h.pass(std::chrono::milliseconds(50));
    for (const char* node : {"a", "b"}) {
      auto& slots = h.held[node];
      for (auto& message : h.take_messages(node)) {
        const auto* load = std::get_if<load_order>(&message.what);
        const auto* free = std::get_if<free_order>(&message.what);
        if (load != nullptr)
          slots.push_back({load->slot, load->expert, load->version, reported_slot_state::failed, {}, 100, 0, "gone"});
        if (free != nullptr) std::erase_if(slots, [&](const auto& s) { return s.slot == free->slot; });
      }
      h.report(node, slots);
    }
    h.acknowledge("r");
    EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
  }
  EXPECT_EQ(newest(h).state, operation_state::rolled_back);
  EXPECT_THAT(newest(h).reason, HasSubstr("could not load it: gone"));
  EXPECT_EQ(h.state().sources.at({2}).state, operation_state::rolled_back);
}

TEST(refresh, goes_on_after_a_restart_of_the_coordinator) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(from_folder({0, 2})));
  for (int round = 0; round < 100 && served(h) != "2 1 2 | 1 1 1"; ++round) {
    h.pass(std::chrono::milliseconds(50));
    for (const char* node : {"a", "b"}) static_cast<void>(h.obey(node));
  }
  auto again = restarted(h);
  again.converge();
  again.pass(limits::restart_grace);  // nothing is freed before routers have had time to come back
  again.converge();
  EXPECT_EQ(served(again), "2 1 2 | 2 1 2");
  EXPECT_EQ(newest(again).state, operation_state::done);
  EXPECT_EQ(slots_used(again), 6U);
}

TEST(refresh, a_pruned_expert_comes_back_with_the_new_weights) {
  auto h = two_nodes();
  expert_id expert{layer_id::of(0), 1};
  ASSERT_TRUE(h.command(change_presence{expert, change_presence::verb::prune, false}));
  h.converge();
  ASSERT_TRUE(h.command(from_folder({1})));
  h.converge();
  ASSERT_TRUE(h.command(change_presence{expert, change_presence::verb::restore, false}));
  h.converge();
  EXPECT_EQ(served(h), "1 2 1 | 1 2 1");
  EXPECT_EQ(h.state().published->find(expert)->digest.value()[31], std::byte{7});
}

TEST(placement_rollback, goes_back_to_versions_places_and_masks) {
  auto h = two_nodes();
  auto before = *h.state().published;
  expert_id moved{layer_id::of(0), 0};
  auto home = before.nodes[before.find(moved)->replicas.front().node].name;
  ASSERT_TRUE(h.command(migrate_expert{moved, {home.value == "a" ? "b" : "a"}, std::nullopt, false}));
  ASSERT_TRUE(h.command(change_presence{{layer_id::of(1), 2}, change_presence::verb::prune, false}));
  h.converge();
  ASSERT_TRUE(h.command(from_folder({0, 1})));
  h.converge();
  EXPECT_NE(h.state().published->find(moved)->version, before.find(moved)->version);

  auto answer = h.command(roll_back_placement{before.epoch, false});
  ASSERT_TRUE(answer) << why(answer);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(served(h), "1 1 1 | 1 1 1");
  for (const auto& expert : before.experts) {
    const auto& now = *h.state().published->find(expert.id);
    EXPECT_EQ(now.masked, expert.masked);
    EXPECT_EQ(now.digest, expert.digest);
    ASSERT_EQ(now.replicas.size(), expert.replicas.size());
    EXPECT_EQ(h.state().published->nodes[now.replicas.front().node].name,
              before.nodes[expert.replicas.front().node].name)
        << to_string(expert.id);
  }
}

TEST(placement_rollback, says_which_epochs_are_remembered) {
  auto h = two_nodes();
  EXPECT_THAT(why(h.command(roll_back_placement{{77}, false})), HasSubstr("epoch 77 is not remembered; there are 1-"));
}

apply_placement placed(std::initializer_list<apply_placement::placed_expert> experts) { return {experts, false}; }

std::string node_of(const core_harness& h, const expert_id& expert) {
  const auto& replicas = h.state().published->find(expert)->replicas;
  return replicas.empty() ? "" : h.state().published->nodes[replicas.front().node].name.value;
}

TEST(placement_apply, experts_go_where_the_plan_has_them) {
  auto h = two_nodes();
  expert_id first{layer_id::of(0), 0}, second{layer_id::of(1), 1};
  auto other = [&](const expert_id& expert) { return node_id{node_of(h, expert) == "a" ? "b" : "a"}; };
  auto first_goes_to = other(first);
  auto answer = h.command(placed({{second, {{"a"}, {"b"}}}, {first, {first_goes_to}}}));
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_EQ(answer->replicas_to_move, 2U);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(node_of(h, first), first_goes_to.value);
  EXPECT_EQ(h.state().published->find(second)->replicas.size(), 2U);
}

TEST(placement_apply, nodes_exchange_experts_through_the_slots_that_are_free) {
  auto h = two_nodes(4);
  apply_placement exchange;
  for (const auto& expert : h.state().experts)
    exchange.experts.push_back({expert.id, {{node_of(h, expert.id) == "a" ? "b" : "a"}}});
  auto counts = std::pair(h.replicas_on("a"), h.replicas_on("b"));
  ASSERT_EQ(counts, std::pair(std::size_t{3}, std::size_t{3}));
  ASSERT_TRUE(h.command(exchange));
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done) << newest(h).reason;
  for (const auto& placed_expert : exchange.experts)
    EXPECT_EQ(node_of(h, placed_expert.expert), placed_expert.nodes.front().value) << to_string(placed_expert.expert);
}

// In each layer an expert of a and one of b change places; both nodes are full, only c has a slot to spare.
TEST(placement_apply, full_nodes_exchange_experts_through_a_slot_of_another_node) {
  auto h = two_nodes(3);
  h.add_expert_node("c", 1);
  h.converge();
  apply_placement exchange;
  std::set<std::pair<layer_id, std::string>> seen;
  for (const auto& expert : h.state().experts) {
    auto from = node_of(h, expert.id);
    if (seen.emplace(expert.id.layer, from).second)
      exchange.experts.push_back({expert.id, {{from == "a" ? "b" : "a"}}});
  }
  ASSERT_TRUE(h.command(exchange));
  for (int round = 0; round < 400 && newest(h).state == operation_state::running; ++round) {
    h.pass(std::chrono::milliseconds(50));
    for (const char* name : {"a", "b", "c"}) static_cast<void>(h.obey(name));
    h.acknowledge("r");
    for (const auto& expert : h.state().published->experts)
      ASSERT_FALSE(expert.replicas.empty()) << to_string(expert.id);
  }
  EXPECT_EQ(newest(h).state, operation_state::done) << newest(h).reason;
  for (const auto& placed_expert : exchange.experts)
    EXPECT_EQ(node_of(h, placed_expert.expert), placed_expert.nodes.front().value) << to_string(placed_expert.expert);
}

TEST(placement_apply, says_what_is_wrong_with_it) {
  auto h = two_nodes(3);
  expert_id expert{layer_id::of(0), 0};
  EXPECT_THAT(why(h.command(placed({}))), HasSubstr("no expert is named"));
  EXPECT_THAT(why(h.command(placed({{expert, {}}}))), HasSubstr("0 nodes are not in 1-"));
  EXPECT_THAT(why(h.command(placed({{expert, {{"a"}, {"a"}}}}))), HasSubstr("on a twice"));
  EXPECT_THAT(why(h.command(placed({{expert, {{"z"}}}}))), HasSubstr("no node z"));
  EXPECT_THAT(why(h.command(placed({{expert, {{"a"}}}, {expert, {{"b"}}}}))), HasSubstr("named twice"));
  EXPECT_THAT(why(h.command(placed({{expert, {{"a"}, {"b"}}}}))), HasSubstr("would need 4 slots and has 3"));
}

TEST(refresh_schedule, a_folder_is_read_when_it_is_due_and_once_for_what_was_missed) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(schedule_refresh{10s, "/next"}));
  h.pass(9s);
  EXPECT_TRUE(h.folders_read.empty());
  h.pass(2s);
  EXPECT_EQ(h.folders_read.size(), 1U);
  h.pass(20s);
  EXPECT_EQ(h.folders_read.size(), 3U);
  ASSERT_TRUE(h.command(schedule_refresh{{}, "", true}));
  h.pass(60s);
  EXPECT_EQ(h.folders_read.size(), 3U) << "paused";
  ASSERT_TRUE(h.command(schedule_refresh{10s, "/next"}));

  auto settings = two_layers();
  settings.started_unix_ms = 3'600'000;  // an hour later
  auto again = restarted(h, settings);
  again.pass(2s);
  EXPECT_THAT(again.folders_read, ::testing::ElementsAre("/next"));
  ASSERT_TRUE(again.command(schedule_refresh{0s, ""}, "another"));
  again.pass(60s);
  EXPECT_EQ(again.folders_read.size(), 1U);
}

TEST(refresh_schedule, batches_of_the_routers_make_it_due) {
  auto h = two_nodes();
  auto report = [&](std::uint64_t batches) {
    stats_report stats{{"r"}, {1}, 0, 0, {}};
    stats.batches_total = batches;
    h.step(stats);
    h.pass(1s);
  };
  report(5'000);  // it has been there for longer than this coordinator
  ASSERT_TRUE(h.command(schedule_refresh{0s, "/next", false, false, 100}));
  report(5'099);
  EXPECT_TRUE(h.folders_read.empty());
  report(5'101);
  EXPECT_EQ(h.folders_read.size(), 1U);
  EXPECT_EQ(h.state().scheduled_runs.back().because, "101 batches");
  report(5'200);
  EXPECT_EQ(h.folders_read.size(), 1U) << "counted from the last time on";
  report(2);  // started anew
  EXPECT_EQ(h.folders_read.size(), 2U);
}

TEST(refresh_schedule, goes_on_counting_batches_after_a_restart) {
  auto h = two_nodes();
  auto report = [](core_harness& to, std::uint64_t batches) {
    stats_report stats{{"r"}, {1}, 0, 0, {}};
    stats.batches_total = batches;
    to.step(stats);
    to.pass(1s);
  };
  report(h, 0);
  ASSERT_TRUE(h.command(schedule_refresh{0s, "/next", false, false, 100}));
  report(h, 60);
  h.pass(limits::schedule_count_interval);
  report(h, 70);
  h.pass(limits::schedule_count_interval);
  EXPECT_EQ(h.disk().schedule.batches, 70U);
  ASSERT_TRUE(h.command(schedule_refresh{{}, "", true}, "pause"));
  EXPECT_EQ(h.disk().schedule.batches, 70U);
  ASSERT_TRUE(h.command(schedule_refresh{0s, "/next", false, false, 100}, "anew"));
  report(h, 160);
  h.pass(limits::schedule_count_interval);

  auto again = restarted(h);
  again.pass(2s);
  report(again, 200);  // what went through meanwhile is not counted
  EXPECT_TRUE(again.folders_read.empty());
  report(again, 211);
  ASSERT_EQ(again.folders_read.size(), 1U);
  EXPECT_EQ(again.state().scheduled_runs.back().because, "101 batches");
  EXPECT_EQ(again.disk().schedule.batches, 0U);
}

TEST(refresh_schedule, what_it_did_is_known_after_a_restart) {
  auto h = two_nodes();
  ASSERT_TRUE(h.command(schedule_refresh{10s, "/next"}));
  h.pass(11s);
  ASSERT_EQ(h.folders_read.size(), 1U);
  h.step(admin_command{"", "schedule-1", from_folder({}), "the schedule"});
  h.pass(2s);
  ASSERT_EQ(h.disk().runs.size(), 1U);
  auto again = restarted(h);
  ASSERT_EQ(again.state().scheduled_runs.size(), 1U);
  EXPECT_EQ(again.state().scheduled_runs.back(), h.state().scheduled_runs.back());
  EXPECT_THAT(again.state().scheduled_runs.back().refresh, HasSubstr("nothing to do"));
}

// Both busy experts of a layer are on one node: they are put apart when the refresh has been answered.
TEST(refresh_schedule, replicas_change_places_after_the_refresh) {
  core_harness h(settings_of(4, 1, 2));
  for (const char* name : {"a", "b"}) h.add_expert_node(name, 4);
  h.add_router("r");
  h.converge();
  auto of_node = [&](const std::string& name) {
    std::vector<expert_id> experts;
    for (const auto& slot : h.held[name]) experts.push_back(slot.expert);
    return experts;
  };
  ASSERT_EQ(of_node("a").size(), 2U);
  auto work = [&] {
    std::uint64_t total = 0;
    for (const auto& expert : of_node("a")) h.step(stats_report{{"a"}, {1}, 0, 0, {{expert, total += 3000, 0}}});
    for (const auto& expert : of_node("b")) h.step(stats_report{{"b"}, {1}, 0, 0, {{expert, 100, 0}}});
  };
  work();
  ASSERT_TRUE(h.command(schedule_refresh{10s, "/next", false, false, 0, 2}));
  h.pass(11s);
  ASSERT_EQ(h.folders_read.size(), 1U);
  EXPECT_TRUE(h.state().operations.empty()) << "the refresh comes first";
  refresh_weights nothing_new{"/next", std::nullopt, false};
  for (std::uint32_t e = 0; e < 4; ++e) nothing_new.found->push_back({{layer_id::of(0), e}, digest_of(e)});
  h.events.clear();
  const auto commands = h.state().commands.size();
  h.step(admin_command{"", "schedule-1", nothing_new, "the schedule"});
  EXPECT_TRUE(std::ranges::none_of(h.events, [](const auto& e) { return e.kind == "audit"; })) << "no news, no event";
  EXPECT_EQ(h.state().commands.size(), commands);
  EXPECT_EQ(h.state().totals.refreshes_unchanged, 1U);
  EXPECT_EQ(h.state().totals.refreshed_unix_ms, unix_ms(h.state()));
  h.converge(5s);
  ASSERT_EQ(h.state().operations.size(), 1U);
  EXPECT_EQ(newest(h).kind, operation_kind::apply);
  EXPECT_EQ(newest(h).who, "the schedule");
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_THAT(newest(h).why, HasSubstr("of 1 layers have 96 % more of their rows than the mean"));
  const auto& run = h.state().scheduled_runs.back();
  EXPECT_EQ(run.moves, 2U);
  EXPECT_EQ(run.operation, "op-1");
  EXPECT_THAT(run.refresh, HasSubstr("nothing to do"));
  EXPECT_LT(run.imbalance_after, 0.5);
  EXPECT_EQ(slots_used(h), 4U) << "free slots stay free";
}

TEST(refresh_schedule, says_what_is_wrong_with_it) {
  auto h = two_nodes();
  EXPECT_THAT(why(h.command(schedule_refresh{10s, "/next", false, false, 0, 10'001})), HasSubstr("at most 10000"));
  EXPECT_THAT(why(h.command(schedule_refresh{{}, "", true})), HasSubstr("nothing is scheduled"));
  EXPECT_THAT(why(h.command(schedule_refresh{std::chrono::milliseconds(10), "/next"})), HasSubstr("once a second"));
  EXPECT_THAT(why(h.command(schedule_refresh{10s, "next"})), HasSubstr("absolute path"));
}

}  // namespace
}  // namespace troupe::coordinator::testing
