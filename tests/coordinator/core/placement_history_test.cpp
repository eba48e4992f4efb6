#include "coordinator/core/placement_history.hpp"

#include <gtest/gtest.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

expert_id expert(std::uint32_t index) { return {layer_id::of(0), index}; }

core_harness three_nodes(std::uint32_t experts, std::uint32_t replication = 1) {
  core_harness h(settings_of(experts, replication, 3));
  for (const char* name : {"a", "b", "c"}) h.add_expert_node(name);
  h.add_router("r");
  h.converge();
  return h;
}

std::string place(const core_harness& h, std::uint32_t index) {
  const auto& map = *h.state().published;
  return map.nodes[map.find(expert(index))->replicas.at(0).node].name.value;
}

// "removed a: op-1: drain of a (2)": every change of experts from that epoch on, one per line.
std::string changes_since(const core_harness& h, std::uint64_t epoch) {
  std::string text;
  for (const auto& entry : h.state().history.epochs()) {
    if (entry.epoch.value <= epoch) continue;
    for (const auto& change : entry.experts) {
      text += fmt::format("{} {}: {} ({})\n", to_string(change.what), change.node.value, change.why, change.count);
    }
  }
  return text;
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

std::uint64_t epoch_of(const core_harness& h) { return h.state().published->epoch.value; }

TEST(placement_history, the_first_placement_is_told_node_by_node) {
  auto h = three_nodes(6);
  const auto& epochs = h.state().history.epochs();
  ASSERT_FALSE(epochs.empty());
  std::uint64_t expected = 0;
  std::uint64_t added = 0;
  std::size_t came = 0;
  for (const auto& entry : epochs) {
    EXPECT_EQ(entry.epoch.value, ++expected);
    came += entry.nodes.size();
    for (const auto& change : entry.experts) {
      EXPECT_EQ(change.what, expert_changes::kind::added);
      EXPECT_EQ(change.why, "first placement");
      EXPECT_EQ(change.experts.size(), change.count);
      added += change.count;
    }
  }
  EXPECT_EQ(added, 6U);
  EXPECT_EQ(came, 3U);
  EXPECT_EQ(epochs.back().epoch, h.state().published->epoch);
  EXPECT_EQ(epochs.back().replicas, 6U);
}

TEST(placement_history, a_migration_names_its_operation_for_both_ends) {
  auto h = three_nodes(3);
  auto from = place(h, 0);
  std::string to = from == "a" ? "b" : "a";
  auto before = epoch_of(h);
  ASSERT_TRUE(h.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  h.converge();
  auto text = changes_since(h, before);  // balance may follow
  EXPECT_TRUE(text.starts_with(fmt::format("added {}: op-1: migrate (1)\nremoved {}: op-1: migrate (1)\n", to, from)))
      << text;
}

TEST(placement_history, a_drain_is_the_reason_on_both_sides) {
  auto h = three_nodes(6);
  auto before = epoch_of(h);
  ASSERT_TRUE(h.command(drain_node{{"a"}, false}));
  h.converge();
  auto text = changes_since(h, before);
  EXPECT_TRUE(has(text, "removed a: op-1: drain of a")) << text;
  EXPECT_TRUE(has(text, "added b: op-1: drain of a")) << text;
  EXPECT_FALSE(has(text, "repair")) << text;
  const auto& epochs = h.state().history.epochs();
  EXPECT_TRUE(std::ranges::any_of(epochs, [](const auto& entry) {
    return std::ranges::any_of(entry.nodes, [](const auto& change) {
      return change.node.value == "a" && change.what == node_change::kind::draining;
    });
  }));
}

TEST(placement_history, a_lost_node_takes_its_replicas_along_and_the_rest_is_repair) {
  auto h = three_nodes(6, 2);
  auto before = epoch_of(h);
  h.stop_beating("a");
  h.converge();
  auto text = changes_since(h, before);
  EXPECT_TRUE(has(text, "removed a: a left: ")) << text;
  EXPECT_TRUE(has(text, "repair: fewer than 2 replicas")) << text;
  const auto& entry =
      *std::ranges::find_if(h.state().history.epochs(), [&](const auto& e) { return e.epoch.value == before + 1; });
  ASSERT_EQ(entry.nodes.size(), 1U);
  EXPECT_EQ(entry.nodes[0].what, node_change::kind::left);
  EXPECT_FALSE(entry.nodes[0].why.empty());
}

TEST(placement_history, a_new_node_is_filled_by_balance) {
  auto h = three_nodes(12);
  auto before = epoch_of(h);
  h.add_expert_node("d");
  h.converge();
  auto text = changes_since(h, before);
  EXPECT_TRUE(has(text, "added d: balance: ")) << text;
  EXPECT_TRUE(has(text, ": balance: ")) << text;
  EXPECT_FALSE(has(text, "more than")) << text;
}

// The nodes of `before` come back with what they hold, to a coordinator that was started anew.
core_harness restarted(const core_harness& before, std::uint32_t experts, durable_state disk) {
  core_harness h(settings_of(experts, 1, 3), disk);
  for (const char* name : {"a", "b", "c"}) {
    h.join(name);
    h.beating[name] = 1;
    h.report(name, before.held.at(name));
  }
  h.add_router("r");
  h.converge();
  return h;
}

TEST(placement_history, outlives_a_restart_and_leads_back_behind_it) {
  auto first = three_nodes(3);
  auto from = place(first, 0);
  std::string to = from == "a" ? "b" : "a";
  auto then = epoch_of(first);
  ASSERT_TRUE(first.command(migrate_expert{expert(0), {to}, std::nullopt, false}));
  first.converge();
  ASSERT_TRUE(first.command(change_presence{expert(1), change_presence::verb::prune, false}));
  first.converge();
  ASSERT_EQ(place(first, 0), to);
  auto told = first.state().history.epochs();

  auto h = restarted(first, 3, first.disk());
  const auto& kept = h.state().history.epochs();
  ASSERT_GE(kept.size(), told.size());
  EXPECT_TRUE(std::equal(told.begin(), told.end(), kept.begin()));
  for (const auto& entry : told) {
    auto was = first.state().history.map_of(entry.epoch);
    auto now = h.state().history.map_of(entry.epoch);
    ASSERT_TRUE(was && now) << entry.epoch.value;
    for (const auto& old : was->experts) {
      const auto* same = now->find(old.id);
      ASSERT_NE(same, nullptr);
      EXPECT_EQ(same->version, old.version);
      EXPECT_EQ(same->digest, old.digest);
      EXPECT_EQ(same->masked, old.masked);
      ASSERT_EQ(same->replicas.size(), old.replicas.size()) << entry.epoch.value << ": " << to_string(old.id);
      for (std::size_t r = 0; r < old.replicas.size(); ++r)
        EXPECT_EQ(now->nodes[same->replicas[r].node].name, was->nodes[old.replicas[r].node].name);
    }
  }
  auto back = h.command(roll_back_placement{{then}, false}, "back");
  ASSERT_TRUE(back) << back.error().message;
  h.converge();
  EXPECT_EQ(place(h, 0), from);
  EXPECT_FALSE(h.state().published->find(expert(1))->masked);
}

TEST(placement_history, where_an_epoch_is_missing_nothing_leads_behind_it) {
  auto first = three_nodes(6);
  for (const char* to : {"a", "b", "c"}) {
    for (std::uint32_t e = 0; e < 6; ++e) {
      if (place(first, e) == to) continue;
      ASSERT_TRUE(first.command(migrate_expert{expert(e), {to}, std::nullopt, false}));
      first.converge();
      break;
    }
  }
  auto disk = first.disk();
  ASSERT_GT(disk.epochs.size(), 4U);
  auto gap = disk.epochs.end() - 3;
  auto missing = gap->what.epoch;
  disk.epochs.erase(gap);
  auto h = restarted(first, 6, disk);
  EXPECT_EQ(h.state().history.map_of({missing.value - 1}), nullptr);
  EXPECT_NE(h.state().history.map_of({missing.value + 1}), nullptr);
  EXPECT_EQ(h.state().history.epochs().front().epoch.value, 1U) << "they are told of all the same";
}

TEST(placement_history, a_write_that_failed_leaves_no_trace) {
  auto h = three_nodes(3);
  auto before = epoch_of(h);
  h.store_failure = error{errc::no_space, "disk full"};
  h.stop_beating("a");
  h.pass(5s);
  EXPECT_EQ(epoch_of(h), before);
  h.store_failure.reset();
  h.converge();
  EXPECT_EQ(h.disk().epochs.back().what.epoch, h.state().published->epoch);
  auto epochs = h.state().history.epochs();
  for (std::size_t e = 1; e < epochs.size(); ++e) EXPECT_EQ(epochs[e].epoch.value, epochs[e - 1].epoch.value + 1);
  auto again = restarted(h, 3, h.disk());
  EXPECT_NE(again.state().history.map_of({before}), nullptr);
}

TEST(placement_history, old_epochs_and_long_lists_are_cut) {
  placement_history history;
  for (std::uint64_t epoch = 1; epoch <= placement_history::epochs_max + 3; ++epoch) {
    auto map = std::make_shared<cluster_map>();
    map->epoch = {epoch};
    history.add({{1}, {epoch}, 0, 0, {}, {}}, map);
  }
  auto newest = epoch_number{placement_history::epochs_max + 3};
  EXPECT_EQ(history.map_of(newest)->epoch, newest);
  EXPECT_EQ(history.map_of({newest.value - placement_history::maps_max}), nullptr);
  EXPECT_EQ(history.maps_kept().second, newest);
  EXPECT_EQ(history.epochs().size(), placement_history::epochs_max);
  EXPECT_EQ(history.epochs().front().epoch.value, 4U);

  auto experts = static_cast<std::uint32_t>(2 * placement_history::experts_named_max);
  core_harness h(settings_of(experts));
  h.add_expert_node("a", experts);
  h.converge();
  std::uint64_t added = 0;
  for (const auto& entry : h.state().history.epochs()) {
    for (const auto& change : entry.experts) {
      added += change.count;
      EXPECT_LE(change.experts.size(), placement_history::experts_named_max);
    }
  }
  EXPECT_EQ(added, experts);
}

}  // namespace
}  // namespace troupe::coordinator::testing
