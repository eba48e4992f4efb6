#include "coordinator/core/operations.hpp"

#include <gtest/gtest.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

expert_id expert(std::uint32_t index) { return {layer_id::of(0), index}; }

core_harness three_nodes(std::uint32_t experts, std::uint32_t replication = 1, std::uint32_t slots = 8) {
  core_harness h(settings_of(experts, replication, 3));
  for (const char* name : {"a", "b", "c"}) h.add_expert_node(name, slots);
  h.add_router("r");
  h.converge();
  return h;
}

// "a c": where the published map has the expert.
std::string places(const core_harness& h, std::uint32_t index) {
  std::string text;
  const auto& map = *h.state().published;
  for (const auto& replica : map.find(expert(index))->replicas) {
    text += (text.empty() ? "" : " ") + map.nodes[replica.node].name.value;
  }
  return text;
}

std::string elsewhere(const core_harness& h, std::uint32_t index) {
  for (const char* name : {"a", "b", "c"}) {
    if (places(h, index) != name) return name;
  }
  return "";
}

const operation_record& newest(const core_harness& h) { return h.state().operations.rbegin()->second; }

operations::step step_of(const core_harness& h) { return operations::look(h.state(), newest(h)).at; }

bool has_event(const core_harness& h, const std::string& kind) {
  return std::ranges::any_of(h.events, [&](const auto& e) { return e.kind == kind; });
}

std::string why(const result<command_outcome>& answer) { return answer ? "" : answer.error().message; }

TEST(operations, a_migration_goes_through_its_steps_and_ends) {
  auto h = three_nodes(3);
  auto from = places(h, 0);
  auto to = elsewhere(h, 0);
  auto answer = h.command(migrate_expert{expert(0), {to}, std::nullopt, false});
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_EQ(answer->operation, "op-1");
  EXPECT_EQ(answer->bytes_to_move, 100U);
  h.pass(50ms);
  EXPECT_EQ(step_of(h), operations::step::reserve);
  h.obey(to);
  EXPECT_EQ(step_of(h), operations::step::publish);
  EXPECT_EQ(places(h, 0), from);
  h.pass(500ms);
  EXPECT_EQ(step_of(h), operations::step::acknowledge);
  h.acknowledge("r");
  h.pass(limits::heartbeat_interval + 50ms);  // the target must be heard once more
  EXPECT_EQ(step_of(h), operations::step::drain);
  h.pass(500ms);
  EXPECT_EQ(places(h, 0), to);
  h.acknowledge("r");
  h.pass(50ms);
  EXPECT_EQ(step_of(h), operations::step::free);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(places(h, 0), to);
  EXPECT_TRUE(has_event(h, "operation_started"));
  EXPECT_TRUE(has_event(h, "operation_done"));
  EXPECT_EQ(h.state().totals.ended.at({operation_kind::migrate, operation_state::done}), 1U);
}

TEST(operations, migrations_are_counted_with_the_time_they_took) {
  auto h = three_nodes(3);
  EXPECT_EQ(h.state().totals.migrations_begun, 0U);
  const auto asked_at = unix_ms(h.state());
  h.step(
      admin_command{"cli", "one", migrate_expert{expert(0), {elsewhere(h, 0)}, std::nullopt, false}, "ann", asked_at});
  EXPECT_EQ(h.state().totals.migrations_begun, 1U);
  EXPECT_EQ(std::ranges::count(h.state().totals.migrations_by_seconds, 0U), 13) << "none has ended";
  h.pass(20s);
  h.converge(5s);
  ASSERT_EQ(newest(h).state, operation_state::done);
  const auto& totals = h.state().totals;
  EXPECT_GE(totals.migration_seconds, 20.0);
  EXPECT_LE(totals.migration_seconds, 26.0);
  EXPECT_EQ(totals.migrations_by_seconds[7], 1U) << "the bucket of 10 to 30 s";
}

TEST(operations, every_command_that_changes_something_leaves_an_audit_line) {
  auto h = three_nodes(3);
  auto to = elsewhere(h, 0);
  const auto audited = [&] {
    std::string lines;
    for (const auto& e : h.events) {
      if (e.kind == "audit") lines += fmt::format("{} | {}\n", e.object, e.text);
    }
    h.events.clear();
    return lines;
  };
  const auto ask = [&](decltype(admin_command::what) what, const std::string& id) {
    h.step(admin_command{"cli", id, std::move(what), "admin:ann", 0});
  };
  ask(migrate_expert{expert(0), {to}, std::nullopt, false}, "one");
  EXPECT_EQ(audited(), fmt::format("0/0 | admin:ann: expert migrate 0/0 --to {}: running (op-1)\n", to));
  ask(migrate_expert{expert(0), {to}, std::nullopt, false}, "one");
  EXPECT_EQ(audited(), "") << "the same command again";
  ask(migrate_expert{expert(1), {"nowhere"}, std::nullopt, false}, "two");
  EXPECT_EQ(audited(),
            "0/1 | admin:ann: expert migrate 0/1 --to nowhere: refused: no node nowhere; there are a, b, c\n");
  ask(drain_node{{"c"}, true}, "three");
  EXPECT_EQ(audited(), "") << "a dry run";
  ask(drain_node{{"nowhere"}, true}, "four");
  EXPECT_EQ(audited(), "") << "a refused dry run";
  ask(pin_expert{expert(2), true, false}, "five");
  EXPECT_EQ(audited(), "0/2 | admin:ann: expert pin 0/2: done\n");
  ask(cancel_operation{"op-1", false}, "six");
  EXPECT_EQ(audited(), "op-1 | admin:ann: op cancel op-1: running (op-1)\n");
  h.store_failure = error{errc::no_space, "disk full"};
  ask(drain_node{{"c"}, false}, "seven");
  EXPECT_EQ(audited(), "c | admin:ann: node drain c: refused: disk full\n");
}

TEST(operations, the_planner_never_undoes_a_migration) {
  auto h = three_nodes(6);
  for (std::uint32_t e = 0; e < 6; ++e) {
    if (places(h, e) == "a") {
      ASSERT_TRUE(h.command(pin_expert{expert(e), true, false}));
    }
  }
  for (std::uint32_t e = 0; e < 6; ++e) {
    if (places(h, e) == "a") continue;
    ASSERT_TRUE(h.command(migrate_expert{expert(e), {"a"}, std::nullopt, false}));
    h.converge();
  }
  EXPECT_EQ(h.replicas_on("a"), 6U);
  h.pass(30s);
  EXPECT_EQ(h.replicas_on("a"), 6U);
  for (std::uint32_t e = 0; e < 6; ++e) ASSERT_TRUE(h.command(pin_expert{expert(e), false, false}));
  h.converge();
  EXPECT_EQ(h.replicas_on("a"), 2U) << "unpinned, they are spread again";
}

TEST(operations, a_cancelled_migration_goes_back_at_every_step) {
  for (int steps = 0; steps < 7; ++steps) {
    auto h = three_nodes(3);
    auto from = places(h, 0);
    auto to = elsewhere(h, 0);
    ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
    for (int s = 0; s < steps; ++s) {
      if (s == 1) h.obey(to);
      if (s == 3 || s == 5) h.acknowledge("r");
      h.pass(s % 2 == 0 ? 500ms : 50ms);
    }
    auto answer = h.command(cancel_operation{"op-1", false});
    ASSERT_TRUE(answer) << steps << why(answer);
    for (int i = 0; i < 400 && newest(h).state == operation_state::running; ++i) {
      EXPECT_NE(places(h, 0), "") << "unroutable after " << steps << " steps";
      h.converge(50ms);
    }
    EXPECT_EQ(newest(h).state, operation_state::cancelled) << steps;
    h.converge();
    EXPECT_EQ(places(h, 0), from) << steps;
    EXPECT_TRUE(h.state().find(expert(0))->wish.empty());
    EXPECT_TRUE(has_event(h, "operation_cancelled"));
  }
}

TEST(operations, a_running_one_goes_on_after_a_restart_at_every_step) {
  for (int steps = 0; steps < 6; ++steps) {
    auto h = three_nodes(3);
    auto to = elsewhere(h, 0);
    ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
    for (int s = 0; s < steps; ++s) {
      if (s == 1) h.obey(to);
      if (s == 3) h.acknowledge("r");
      h.pass(s % 2 == 0 ? 500ms : 50ms);
    }
    core_harness again(settings_of(3, 1, 3), h.disk());
    for (const char* name : {"a", "b", "c"}) {
      again.join(name, 1);
      again.beating[name] = 1;
      again.report(name, h.held[name]);
    }
    again.add_router("r");
    again.converge();
    again.pass(limits::restart_grace);  // nothing is freed before routers have had time to come back
    again.converge();
    EXPECT_EQ(newest(again).state, operation_state::done) << steps;
    EXPECT_EQ(places(again, 0), to) << steps;
    auto next = again.command(replicate_expert{expert(1), 2, false}, "another");
    ASSERT_TRUE(next) << why(next);
    EXPECT_EQ(next->operation, "op-2");
  }
}

TEST(operations, one_whose_target_is_lost_is_rolled_back) {
  auto h = three_nodes(3);
  auto from = places(h, 0);
  auto to = elsewhere(h, 0);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  h.pass(50ms);
  h.stop_beating(to);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::rolled_back);
  EXPECT_NE(newest(h).reason.find(to), std::string::npos) << newest(h).reason;
  EXPECT_EQ(places(h, 0), from);
  EXPECT_TRUE(h.state().find(expert(0))->wish.empty());
  EXPECT_TRUE(has_event(h, "operation_failed"));
}

TEST(operations, one_whose_target_comes_back_as_another_process_is_rolled_back) {
  auto h = three_nodes(3);
  auto from = places(h, 0);
  auto to = elsewhere(h, 0);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  h.stop_beating(to);
  h.pass(limits::heartbeat_suspect_after + 50ms);  // until then another process under this name is refused
  h.join(to, 2, 3);
  h.pass(50ms);
  EXPECT_EQ(newest(h).state, operation_state::rolled_back);
  EXPECT_EQ(newest(h).reason, to + " was lost meanwhile and is joining again");
  h.converge();
  EXPECT_EQ(places(h, 0), from);
}

TEST(operations, one_whose_target_cannot_load_is_rolled_back) {
  auto h = three_nodes(3);
  auto from = places(h, 0);
  auto to = elsewhere(h, 0);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  for (int i = 0; i < 400 && newest(h).state == operation_state::running; ++i) {
    h.pass(50ms);
    for (auto& message : h.take_messages(to)) {
      auto kept = h.held[to];
      if (const auto* load = std::get_if<load_order>(&message.what)) {
        auto with = kept;
        with.push_back({load->slot, load->expert, load->version, reported_slot_state::failed, std::nullopt, 100, 0,
                        "disk on fire"});
        h.report(to, with);
        h.report(to, kept);
      }
    }
  }
  EXPECT_EQ(newest(h).state, operation_state::rolled_back);
  EXPECT_NE(newest(h).reason.find("disk on fire"), std::string::npos) << newest(h).reason;
  EXPECT_EQ(places(h, 0), from);
}

TEST(operations, replicas_come_and_go_by_command) {
  auto h = three_nodes(3);
  ASSERT_TRUE(h.command(replicate_expert{expert(1), 3, false}));
  h.converge();
  EXPECT_EQ(places(h, 1), "a b c");
  EXPECT_EQ(newest(h).state, operation_state::done);
  ASSERT_TRUE(h.command(replicate_expert{expert(1), 1, false}));
  h.converge();
  EXPECT_EQ(places(h, 1).size(), 1U);
  EXPECT_TRUE(h.state().find(expert(1))->wish.empty()) << "what the cluster's replication says is no wish";
  auto again = h.command(replicate_expert{expert(1), 1, false});
  ASSERT_TRUE(again);
  EXPECT_EQ(again->state, "done");
  EXPECT_EQ(again->operation, "");
}

// The planner evens out a new node: the old replica leaves the map in a write that begins behind the command's.
TEST(operations, one_is_not_done_by_a_map_that_is_about_to_change) {
  core_harness h(settings_of(4, 1, 2));
  for (const char* name : {"a", "b"}) h.add_expert_node(name);
  h.add_router("r");
  h.converge();
  h.add_expert_node("c");
  auto moving = [&] {
    for (std::uint32_t e = 0; e < 4; ++e) {
      if (places(h, e).size() > 1) return e;
    }
    return 4U;
  };
  for (int i = 0; i < 200 && moving() == 4; ++i) {
    h.pass(50ms);
    h.obey("c");
  }
  const auto moved = moving();
  ASSERT_LT(moved, 4U) << h.placement();
  h.is_disk_slow = true;
  (void)h.command(replicate_expert{expert(moved), 2, false});
  ASSERT_EQ(h.unwritten.size(), 1U);
  h.acknowledge("r");
  h.pass(500ms);
  ASSERT_EQ(h.unwritten.size(), 2U) << "the map without the old replica waits behind the command";
  h.write_next();
  h.pass(100ms);
  EXPECT_EQ(h.unwritten.size(), 1U) << "the end of the operation is written already";
  h.write_next();
  h.is_disk_slow = false;
  while (!h.unwritten.empty()) h.write_next();
  EXPECT_EQ(places(h, moved).size(), 1U);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_GT(places(h, moved).size(), 1U);
}

TEST(operations, a_migrated_replica_of_several_takes_the_place_that_was_named) {
  auto h = three_nodes(1, 2);
  auto before = places(h, 0);
  ASSERT_EQ(before.size(), 3U);
  auto to = before.find('a') == std::string::npos ? "a" : before.find('b') == std::string::npos ? "b" : "c";
  auto from = before.substr(0, 1);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, node_id{from}, false}));
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(places(h, 0).find(from), std::string::npos) << places(h, 0);
  EXPECT_NE(places(h, 0).find(to), std::string::npos) << places(h, 0);
}

TEST(operations, a_drain_is_one_and_giving_work_again_cancels_it) {
  auto h = three_nodes(6);
  auto answer = h.command(drain_node{{"a"}, false});
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->operation, "op-1");
  EXPECT_EQ(newest(h).state, operation_state::running);
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::done);
  ASSERT_TRUE(h.command(undrain_node{{"a"}, false}));
  EXPECT_EQ(newest(h).state, operation_state::done) << "what has ended stays as it is";
  h.converge();
  ASSERT_TRUE(h.command(drain_node{{"b"}, false}));
  auto cancelled = h.command(cancel_operation{"op-2", false});
  ASSERT_TRUE(cancelled) << why(cancelled);
  EXPECT_EQ(newest(h).state, operation_state::cancelled);
  EXPECT_FALSE(h.state().nodes.at({"b"}).is_draining());
}

struct bad_command {
  const char* what;
  decltype(admin_command::what) command;
  errc code;
  const char* says;
};

TEST(operations, bad_commands_are_refused_at_once) {
  auto h = three_nodes(3, 1, 3);
  auto on_a = places(h, 0);
  ASSERT_EQ(on_a, "a");
  h.add_expert_node("small", 1);
  ASSERT_TRUE(h.command(drain_node{{"c"}, false}));
  h.converge();
  auto busy = h.command(replicate_expert{expert(1), 2, false});
  ASSERT_TRUE(busy) << why(busy);
  const std::vector<bad_command> cases{
      {"unknown expert", migrate_expert{expert(9), {"b"}, {}, false}, errc::not_found, "experts 0-2"},
      {"unknown layer", replicate_expert{{layer_id::of(7), 0}, 1, false}, errc::not_found, "no MoE layer"},
      {"unknown node", migrate_expert{expert(0), {"z"}, {}, false}, errc::not_found, "there are a, b, c"},
      {"router", migrate_expert{expert(0), {"r"}, {}, false}, errc::invalid_request, "router"},
      {"drained", migrate_expert{expert(0), {"c"}, {}, false}, errc::conflict, "draining"},
      {"no slot", migrate_expert{expert(0), {"small"}, {}, false}, errc::conflict, "slots"},
      {"not there", migrate_expert{expert(0), {"b"}, node_id{"c"}, false}, errc::conflict, "it is on a"},
      {"none", replicate_expert{expert(0), 0, false}, errc::invalid_request, "0 replicas"},
      {"more than nodes", replicate_expert{expert(0), 4, false}, errc::conflict, "nodes"},
      {"busy", migrate_expert{expert(1), {"a"}, {}, false}, errc::conflict, "op-2"},
      {"busy pin", pin_expert{expert(1), true, false}, errc::conflict, "op-2"},
      {"no operation", cancel_operation{"op-77", false}, errc::not_found, "op-77"},
      {"no name", cancel_operation{"op-1x", false}, errc::not_found, "op-1x"},
      {"ended", cancel_operation{"op-1", false}, errc::conflict, "done"},
  };
  for (const auto& bad : cases) {
    auto answer = h.command(bad.command);
    ASSERT_FALSE(answer) << bad.what;
    EXPECT_EQ(answer.error().code, bad.code) << bad.what << ": " << answer.error().message;
    EXPECT_NE(answer.error().message.find(bad.says), std::string::npos) << bad.what << ": " << answer.error().message;
  }
}

// faults.md A3
TEST(operations, a_migrate_to_where_the_expert_is_has_been_done) {
  auto h = three_nodes(3);
  auto to = elsewhere(h, 0);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  auto during = h.command(migrate_expert{expert(0), {to}, std::nullopt, false});
  ASSERT_FALSE(during);
  EXPECT_EQ(during.error().code, errc::conflict);
  h.converge();
  auto again = h.command(migrate_expert{expert(0), {to}, std::nullopt, false});
  ASSERT_TRUE(again) << why(again);
  EXPECT_EQ(again->state, "done");
  EXPECT_EQ(again->operation, "");
  EXPECT_NE(again->message.find("already"), std::string::npos) << again->message;
  EXPECT_EQ(h.state().operations.size(), 1U);
}

TEST(operations, a_pinned_expert_is_not_migrated) {
  auto h = three_nodes(3);
  auto at = places(h, 0);
  ASSERT_TRUE(h.command(pin_expert{expert(0), true, false}));
  auto answer = h.command(migrate_expert{expert(0), {elsewhere(h, 0)}, std::nullopt, false});
  ASSERT_FALSE(answer);
  EXPECT_NE(answer.error().message.find("unpin"), std::string::npos) << answer.error().message;
  ASSERT_TRUE(h.command(pin_expert{expert(0), false, false}));
  EXPECT_TRUE(h.command(migrate_expert{expert(0), {elsewhere(h, 0)}, std::nullopt, true}));
}

TEST(operations, a_dry_run_changes_nothing_and_an_id_acts_once) {
  auto h = three_nodes(3);
  auto to = elsewhere(h, 0);
  auto tried = h.command(migrate_expert{expert(0), {to}, std::nullopt, true});
  ASSERT_TRUE(tried);
  EXPECT_EQ(tried->state, "dry_run");
  EXPECT_EQ(tried->bytes_to_move, 100U);
  EXPECT_TRUE(h.state().operations.empty());
  auto first = h.command(migrate_expert{expert(0), {to}, std::nullopt, false}, "same");
  auto second = h.command(migrate_expert{expert(0), {to}, std::nullopt, false}, "same");
  ASSERT_TRUE(first);
  ASSERT_TRUE(second) << why(second);
  EXPECT_EQ(*first, *second);
  EXPECT_EQ(h.state().operations.size(), 1U);
}

TEST(operations, nothing_has_happened_when_the_disk_is_full) {
  auto h = three_nodes(3);
  h.store_failure = error{errc::no_space, "disk full"};
  auto answer = h.command(migrate_expert{expert(0), {elsewhere(h, 0)}, std::nullopt, false});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, errc::no_space);
  EXPECT_TRUE(h.state().operations.empty());
  h.store_failure.reset();
  h.converge();
  EXPECT_FALSE(h.state().alarm);
  EXPECT_FALSE(h.state().rewrite_operations);
  EXPECT_TRUE(h.disk().operations.empty());
  EXPECT_TRUE(h.command(migrate_expert{expert(0), {elsewhere(h, 0)}, std::nullopt, false}));
}

TEST(operations, the_oldest_ended_ones_are_forgotten) {
  auto h = three_nodes(3);
  for (std::size_t i = 0; i < limits::operations_kept_max + 3; ++i) {
    ASSERT_TRUE(h.command(drain_node{{"a"}, false}));
    ASSERT_TRUE(h.command(undrain_node{{"a"}, false}));
  }
  EXPECT_EQ(h.state().operations.size(), limits::operations_kept_max);
  EXPECT_EQ(h.disk().operations.size(), limits::operations_kept_max);
  EXPECT_EQ(newest(h).number, limits::operations_kept_max + 3);
}

}  // namespace
}  // namespace troupe::coordinator::testing
