// Experts that take part, are pruned, restored, and added later.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/core/operations.hpp"
#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::HasSubstr;
using verb = change_presence::verb;

constexpr layer_id layer = layer_id::of(0);

cluster_settings gated(std::uint32_t experts, std::uint32_t top_k, std::uint32_t replication = 1) {
  auto settings = settings_of(experts, replication, 2);
  settings.gates[layer].num_experts = experts;
  settings.gates[layer].top_k = top_k;
  return settings;
}

core_harness two_nodes(cluster_settings settings, std::uint32_t slots = 8) {
  core_harness h(std::move(settings));
  for (const char* name : {"a", "b"}) h.add_expert_node(name, slots);
  h.add_router("r");
  h.converge();
  return h;
}

result<command_outcome> change(core_harness& h, verb what, std::uint32_t index) {
  return h.command(change_presence{{layer, index}, what, false});
}

const map_expert& in_map(const core_harness& h, std::uint32_t index) {
  return *h.state().published->find(expert_id{layer, index});
}

std::size_t slots_used(const core_harness& h) {
  return h.state().nodes.at({"a"}).slots.size() + h.state().nodes.at({"b"}).slots.size();
}

const operation_record& newest(const core_harness& h) { return h.state().operations.rbegin()->second; }

std::string why(const result<command_outcome>& answer) { return answer ? "" : answer.error().message; }

TEST(presence, a_pruned_expert_is_masked_first_and_freed_when_every_router_knows) {
  auto h = two_nodes(gated(4, 2));
  auto answer = change(h, verb::prune, 1);
  ASSERT_TRUE(answer) << why(answer);
  EXPECT_EQ(answer->operation, "op-1");
  h.pass(1s);
  EXPECT_TRUE(in_map(h, 1).masked);
  EXPECT_EQ(in_map(h, 1).state, expert_state::draining);
  EXPECT_EQ(in_map(h, 1).replicas.size(), 1U) << "rows that chose it before must still be answered";
  h.acknowledge("r");
  h.pass(1s);
  EXPECT_EQ(in_map(h, 1).state, expert_state::pruned);
  EXPECT_TRUE(in_map(h, 1).replicas.empty());
  EXPECT_EQ(slots_used(h), 4U) << "the router may still use the slot";
  EXPECT_EQ(operations::look(h.state(), newest(h)).at, operations::step::drain);
  h.converge();
  EXPECT_EQ(slots_used(h), 3U);
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(h.state().published->unroutable_experts(), 0U);
  EXPECT_THAT(h.state().published->gate_mask(layer), ::testing::ElementsAre(1, 0, 1, 1));
}

TEST(presence, a_restored_expert_is_chosen_only_when_it_can_be_served) {
  auto h = two_nodes(gated(4, 2));
  ASSERT_TRUE(change(h, verb::prune, 1));
  h.converge();
  auto answer = change(h, verb::restore, 1);
  ASSERT_TRUE(answer) << why(answer);
  h.pass(1s);
  EXPECT_TRUE(in_map(h, 1).masked);
  EXPECT_EQ(in_map(h, 1).state, expert_state::warming);
  h.converge();
  EXPECT_FALSE(in_map(h, 1).masked);
  EXPECT_EQ(in_map(h, 1).state, expert_state::active);
  EXPECT_EQ(in_map(h, 1).replicas.size(), 1U);
  EXPECT_EQ(newest(h).state, operation_state::done);
  EXPECT_EQ(h.state().totals.ended.at({operation_kind::restore, operation_state::done}), 1U);
}

TEST(presence, a_restored_expert_is_where_it_was) {
  auto h = two_nodes(gated(4, 2));
  auto places = [&] {
    std::vector<std::vector<node_id>> all;
    for (const auto& expert : h.state().experts) all.push_back(expert.wanted);
    return all;
  };
  auto before = places();
  for (std::uint32_t e : {0U, 1U}) ASSERT_TRUE(change(h, verb::prune, e));
  h.converge();
  for (std::uint32_t e : {1U, 0U}) {  // the other way round: each node is the emptier one once
    ASSERT_TRUE(change(h, verb::restore, e));
    h.converge();
  }
  EXPECT_EQ(places(), before);
}

TEST(presence, too_few_experts_for_a_row_are_never_left) {
  auto h = two_nodes(gated(3, 2));
  ASSERT_TRUE(change(h, verb::prune, 0));
  auto second = change(h, verb::prune, 1);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::conflict);
  EXPECT_THAT(second.error().message, HasSubstr("only 1 of layer 0 are left, too few for the 2"));
  h.converge();
  EXPECT_FALSE(change(h, verb::prune, 2));
  ASSERT_TRUE(change(h, verb::restore, 0));
  EXPECT_TRUE(change(h, verb::prune, 1));
}

TEST(presence, groups_keep_enough_experts) {
  auto settings = gated(6, 2);
  auto& gate = settings.gates[layer];
  gate.groups = model::group_score::max;
  gate.num_groups = 3;
  gate.top_k_groups = 1;
  auto h = two_nodes(std::move(settings));
  ASSERT_TRUE(change(h, verb::prune, 0));
  ASSERT_TRUE(change(h, verb::prune, 2));
  auto third = change(h, verb::prune, 4);
  ASSERT_FALSE(third) << "every group would have one expert, and rows keep one group";
  EXPECT_THAT(third.error().message, HasSubstr("in the groups that it keeps"));
  EXPECT_TRUE(change(h, verb::prune, 1));
}

TEST(presence, verbs_that_do_not_fit_are_refused_or_need_nothing) {
  auto h = two_nodes(gated(4, 2));
  auto restored = change(h, verb::restore, 0);
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->state, "done");
  EXPECT_TRUE(restored->operation.empty());
  ASSERT_TRUE(change(h, verb::prune, 0));
  EXPECT_EQ(change(h, verb::prune, 1)->state, "running");
  EXPECT_FALSE(change(h, verb::restore, 0)) << "an operation is under way";
  h.converge();
  EXPECT_EQ(change(h, verb::prune, 0)->state, "done");
  EXPECT_THAT(why(change(h, verb::add, 0)), HasSubstr("troupe expert restore 0/0"));
  EXPECT_THAT(why(h.command(migrate_expert{{layer, 0}, {"a"}, std::nullopt, false})), HasSubstr("is pruned"));
  EXPECT_THAT(why(h.command(replicate_expert{{layer, 0}, 2, false})), HasSubstr("is pruned"));
  EXPECT_EQ(change(h, verb::prune, 9).error().code, errc::not_found);
  ASSERT_TRUE(h.command(pin_expert{{layer, 2}, true, false}));
  EXPECT_THAT(why(change(h, verb::prune, 2)), HasSubstr("unpin it first"));
}

TEST(presence, a_cancelled_prune_brings_the_replicas_back_before_they_are_freed) {
  auto h = two_nodes(gated(4, 2));
  ASSERT_TRUE(change(h, verb::prune, 1));
  h.pass(1s);
  ASSERT_TRUE(in_map(h, 1).masked);
  ASSERT_TRUE(h.command(cancel_operation{"op-1", false}));
  h.converge();
  EXPECT_EQ(newest(h).state, operation_state::cancelled);
  EXPECT_FALSE(in_map(h, 1).masked);
  EXPECT_EQ(in_map(h, 1).replicas.size(), 1U);
}

TEST(presence, a_restore_that_no_node_can_load_goes_back_to_pruned) {
  auto h = two_nodes(gated(4, 2));
  ASSERT_TRUE(change(h, verb::prune, 1));
  h.converge();
  ASSERT_TRUE(change(h, verb::restore, 1));
  for (int i = 0; i < 4000 && newest(h).state == operation_state::running; ++i) {
    h.pass(50ms);
    for (const char* name : {"a", "b"}) {
      for (auto& message : h.take_messages(name)) {
        const auto* load = std::get_if<load_order>(&message.what);
        auto slots = h.held[name];
        if (load != nullptr) {
          slots.push_back({load->slot, load->expert, load->version, reported_slot_state::failed, {}, 0, 0, "bad disk"});
        }
        h.report(name, slots);
        std::erase_if(h.held[name], [](const auto& s) { return s.state == reported_slot_state::failed; });
      }
    }
    h.acknowledge("r");
  }
  EXPECT_EQ(newest(h).state, operation_state::rolled_back);
  EXPECT_THAT(newest(h).reason, HasSubstr("bad disk"));
  h.converge();
  EXPECT_TRUE(in_map(h, 1).masked);
  EXPECT_EQ(in_map(h, 1).state, expert_state::pruned);
}

TEST(presence, masks_and_wishes_survive_a_restart) {
  auto h = two_nodes(gated(4, 2));
  ASSERT_TRUE(change(h, verb::prune, 1));
  h.pass(1s);  // masked, its replica still there
  ASSERT_TRUE(in_map(h, 1).masked);
  core_harness again(gated(4, 2), h.disk());
  EXPECT_TRUE(in_map(again, 1).masked) << "not one row may choose it in between";
  for (const char* name : {"a", "b"}) {
    again.join(name);
    again.beating[name] = 1;
    again.report(name, h.held[name]);
  }
  again.add_router("r");
  again.pass(limits::restart_grace);  // routers that are not back yet may still use the slot
  again.converge();
  EXPECT_EQ(in_map(again, 1).state, expert_state::pruned);
  EXPECT_EQ(newest(again).state, operation_state::done);
}

TEST(presence, a_progressive_start_serves_the_first_experts_and_adds_others_by_command) {
  auto settings = gated(8, 2);
  settings.active_experts = 3;
  auto h = two_nodes(settings);
  EXPECT_TRUE(h.state().settled);
  EXPECT_EQ(slots_used(h), 3U);
  EXPECT_THAT(h.state().published->gate_mask(layer), ::testing::ElementsAre(1, 1, 1, 0, 0, 0, 0, 0));
  EXPECT_EQ(in_map(h, 5).state, expert_state::dormant);
  EXPECT_THAT(why(change(h, verb::restore, 5)), HasSubstr("troupe expert add 0/5"));
  ASSERT_TRUE(change(h, verb::add, 5));
  h.converge();
  EXPECT_FALSE(in_map(h, 5).masked);
  EXPECT_EQ(slots_used(h), 4U);
  core_harness again(settings, h.disk());
  EXPECT_FALSE(in_map(again, 5).masked) << "the settings of the first start are over";
}

TEST(presence, a_progressive_start_with_too_few_experts_is_refused) {
  auto settings = gated(8, 4);
  settings.active_experts = 3;
  auto made = cluster_state_machine::create(settings, {}, time_point{});
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, HasSubstr("3 active experts are too few for layer 0"));
}

TEST(presence, a_progressive_start_of_a_grouped_gate_fills_the_groups_that_a_row_keeps) {
  auto settings = gated(8, 2);
  auto& gate = settings.gates[layer];
  gate.groups = model::group_score::max;
  gate.num_groups = 4;
  gate.top_k_groups = 2;
  settings.active_experts = 3;
  auto h = two_nodes(std::move(settings));
  EXPECT_THAT(h.state().published->gate_mask(layer), ::testing::ElementsAre(1, 1, 1, 0, 0, 0, 0, 0));
}

}  // namespace
}  // namespace troupe::coordinator::testing
