#include "coordinator/shell/sqlite_store.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <unistd.h>

#include <array>
#include <fstream>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::coordinator {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class sqlite_store_test : public ::testing::Test {
 protected:
  sqlite_store_test() {
    auto pattern = (fs::temp_directory_path() / "troupe-store-XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    file = folder / "state.db";
  }
  ~sqlite_store_test() override { fs::remove_all(folder); }

  fs::path folder;
  fs::path file;
};

node_record some_node() {
  node_record node;
  node.node = {"expert-0"};
  node.incarnation = {0xffff'ffff'ffff'fff0U};  // all 64 bits survive
  node.facts.pid = 42;
  node.facts.data_address = "ipc:///run/expert-0.data.ipc";
  node.facts.zone = "rack \"7\"";
  node.facts.slots_total = 12;
  node.facts.slot_bytes = 1U << 30;
  node.in_map = node_state::draining;
  node.draining = true;
  node.operation = "op-1-2";
  return node;
}

std::vector<store_record> some_records() {
  expert_record expert{
      {layer_id::of(3, layer_stack::encoder), 7}, expert_state::active, {1}, sha256_digest{std::byte{9}}, {}, true};
  expert.replicas = {{{"expert-0"}, {4}, {1}}, {{"expert-1"}, {0}, {1}}};
  command_outcome outcome{"op-1-2", "drain", {"expert-0"}, "running", "6 replicas move", 6};
  return {cluster_record{"c", "f", {3}, {17}, 1'700'000'000'123}, some_node(), expert,
          command_record{"uuid", 5, outcome}};
}

TEST_F(sqlite_store_test, gives_back_what_was_written) {
  auto records = some_records();
  {
    auto opened = open_sqlite_store(file);
    ASSERT_TRUE(opened) << opened.error().message;
    auto fresh = (*opened)->load();
    ASSERT_TRUE(fresh);
    EXPECT_FALSE(fresh->cluster);
    ASSERT_TRUE((*opened)->write(records));
  }
  auto again = open_sqlite_store(file);
  ASSERT_TRUE(again);
  auto state = (*again)->load();
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_EQ(*state->cluster, std::get<cluster_record>(records[0]));
  ASSERT_EQ(state->nodes.size(), 1U);
  EXPECT_EQ(state->nodes[0], some_node());
  ASSERT_EQ(state->experts.size(), 1U);
  EXPECT_EQ(state->experts[0], std::get<expert_record>(records[2]));
  ASSERT_EQ(state->commands.size(), 1U);
  EXPECT_EQ(state->commands[0].outcome, std::get<command_record>(records[3]).outcome);
}

TEST_F(sqlite_store_test, replaces_and_erases_rows) {
  auto opened = open_sqlite_store(file);
  ASSERT_TRUE((*opened)->write(some_records()));
  std::vector<store_record> change{cluster_record{"c", "f", {4}, {18}}, node_erased{{"expert-0"}},
                                   command_erased{"uuid"}};
  ASSERT_TRUE((*opened)->write(change));
  auto state = (*opened)->load();
  EXPECT_EQ(state->cluster->term.value, 4U);
  EXPECT_TRUE(state->nodes.empty());
  EXPECT_TRUE(state->commands.empty());
  EXPECT_EQ(state->experts.size(), 1U);
}

operation_record some_operation(std::uint64_t number) {
  operation_record operation;
  operation.number = number;
  operation.kind = operation_kind::migrate;
  operation.state = operation_state::rolled_back;
  operation.expert = {layer_id::of(3, layer_stack::encoder), 7};
  operation.node = {"expert-2"};
  operation.from = {{"expert-0"}, {"expert-1"}};
  operation.replicas_before = operation.replicas_after = 2;
  operation.before = {3U, {{"expert-0"}}, true};
  operation.cancelling = operation.in_batches = true;
  operation.who = "admin:me";
  operation.since_unix_ms = 1'700'000'000'123;
  operation.reason = "expert-2 is lost";
  return operation;
}

TEST_F(sqlite_store_test, keeps_wishes_and_operations) {
  expert_id expert{layer_id::of(3), 7};
  expert_wish wish{2U, {{"expert-1"}, {"expert-0"}}, true, expert_presence::pruned};
  wish.pruned_by_policy = true;
  std::vector<store_record> records{wish_record{expert, wish}, some_operation(12), some_operation(13)};
  ASSERT_TRUE((*open_sqlite_store(file))->write(records));
  auto opened = open_sqlite_store(file);
  auto state = (*opened)->load();
  ASSERT_TRUE(state) << state.error().message;
  ASSERT_EQ(state->wishes.size(), 1U);
  EXPECT_EQ(state->wishes[0].expert, expert);
  EXPECT_EQ(state->wishes[0].wish, wish);
  EXPECT_EQ(state->operations, (std::vector{some_operation(12), some_operation(13)}));
  std::vector<store_record> change{wish_record{expert, {}}, operation_erased{12}};
  ASSERT_TRUE((*opened)->write(change));
  state = (*opened)->load();
  EXPECT_TRUE(state->wishes.empty());
  EXPECT_EQ(state->operations, (std::vector{some_operation(13)}));
}

epoch_record some_epoch(std::uint64_t number) {
  expert_id expert{layer_id::of(3, layer_stack::encoder), 7};
  placement_epoch what{{2}, {number}, 1'700'000'000'123, 40, {}, {}};
  what.nodes = {{{"expert-0"}, node_change::kind::left, "silent for 3 s"}, {{"expert-2"}, node_change::kind::came, ""}};
  what.experts = {{expert_changes::kind::removed, {"expert-0"}, "it left", 70, {expert, {layer_id::of(1), 0}}}};
  expert_record was{expert, expert_state::active, {2}, sha256_digest{std::byte{9}}, {{{"expert-0"}, {4}, {2}}}, true};
  return {what, std::vector{was, expert_record{{layer_id::of(1), 0}, expert_state::dormant, {1}, {}, {}, false}}};
}

TEST_F(sqlite_store_test, keeps_so_many_epochs_and_what_leads_back_from_fewer) {
  auto opened = open_sqlite_store(file);
  const auto newest = limits::placement_epochs_kept_max + 20;
  for (std::uint64_t number = 1; number <= newest; ++number) {
    std::vector<store_record> records{some_epoch(number)};
    ASSERT_TRUE((*opened)->write(records));
  }
  auto state = (*open_sqlite_store(file))->load();
  ASSERT_TRUE(state) << state.error().message;
  ASSERT_EQ(state->epochs.size(), limits::placement_epochs_kept_max);
  EXPECT_EQ(state->epochs.front().what.epoch.value, 21U);
  EXPECT_EQ(state->epochs.back(), some_epoch(newest));
  EXPECT_EQ(state->epochs.front().what, some_epoch(21).what);
  auto leading = std::ranges::count_if(state->epochs, [](const auto& epoch) { return epoch.before.has_value(); });
  EXPECT_EQ(static_cast<std::size_t>(leading), limits::placement_maps_kept_max - 1);
  EXPECT_FALSE(state->epochs[state->epochs.size() - limits::placement_maps_kept_max].before);

  std::vector<store_record> instead{some_epoch(newest - 1)};  // what followed was never seen
  ASSERT_TRUE((*opened)->write(instead));
  state = (*opened)->load();
  EXPECT_EQ(state->epochs.back().what.epoch.value, newest - 1);
}

TEST_F(sqlite_store_test, keeps_what_the_schedule_did_and_what_pruning_saw) {
  scheduled_run run{7, 1'700'000'000'123, "600 s", "nothing to do", 2, "op-3", 0.5, 0.25, 4, 1, {{layer_id::of(1), 0}}};
  watch_record watch{layer_id::of(3, layer_stack::encoder), 1'700'000'000'123, std::chrono::hours(24), {}};
  watch.experts = {{0, 1'600'000'000'000, {0, 0, 1, 2, 3, ~0ULL}, {5, 6, 7, 8, 9, 10}}, {9, 1, {}, {}}};
  schedule_record schedule{std::chrono::seconds(600), "/next", true, 17, 1000, 4, 99};
  std::vector<store_record> records{run, watch, schedule};
  ASSERT_TRUE((*open_sqlite_store(file))->write(records));
  auto opened = open_sqlite_store(file);
  auto state = (*opened)->load();
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_THAT(state->runs, ::testing::ElementsAre(run));
  EXPECT_THAT(state->watches, ::testing::ElementsAre(watch));
  EXPECT_EQ(state->schedule, schedule);
  for (run.number = 8; run.number <= 7 + limits::scheduled_runs_kept_max; ++run.number) {
    records = {run};
    ASSERT_TRUE((*opened)->write(records));
  }
  state = (*opened)->load();
  ASSERT_EQ(state->runs.size(), limits::scheduled_runs_kept_max);
  EXPECT_EQ(state->runs.front().number, 8U);
}

void run_sql(const fs::path& file, const char* sql) {
  sqlite3* database = nullptr;
  ASSERT_EQ(sqlite3_open(file.c_str(), &database), SQLITE_OK);
  EXPECT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(database);
}

TEST_F(sqlite_store_test, D5_refuses_a_newer_schema_and_names_both_versions) {
  ASSERT_TRUE(open_sqlite_store(file));
  run_sql(file, "PRAGMA user_version = 9");
  auto newer = open_sqlite_store(file);
  ASSERT_FALSE(newer);
  EXPECT_EQ(newer.error().code, errc::wrong_version);
  EXPECT_THAT(newer.error().message, HasSubstr("schema 9"));
  EXPECT_THAT(newer.error().message, HasSubstr("knows 5"));
}

TEST_F(sqlite_store_test, brings_a_file_of_version_1_up_to_date) {
  ASSERT_TRUE((*open_sqlite_store(file))->write(some_records()));
  run_sql(file,
          "DROP TABLE wishes; DROP TABLE operations; DROP TABLE sources; DROP TABLE schedule; DROP TABLE epochs; "
          "DROP TABLE runs; DROP TABLE watches; ALTER TABLE cluster DROP COLUMN since_unix_ms; "
          "ALTER TABLE experts DROP COLUMN masked; PRAGMA user_version = 1");
  auto opened = open_sqlite_store(file);
  ASSERT_TRUE(opened) << opened.error().message;
  std::vector<store_record> records{some_operation(1)};
  ASSERT_TRUE((*opened)->write(records));
  auto state = (*opened)->load();
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_EQ(state->nodes.size(), 1U);
  EXPECT_EQ(state->operations.size(), 1U);
  EXPECT_EQ(state->cluster->since_unix_ms, 0) << "not known";
}

TEST_F(sqlite_store_test, D4_refuses_a_file_that_is_no_database) {
  std::ofstream(file)
      << "this is certainly not a database, whatever its name says; it is long enough to be read as one";
  auto opened = open_sqlite_store(file);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, errc::corrupt);
  EXPECT_THAT(opened.error().message, HasSubstr(file.string()));
}

TEST_F(sqlite_store_test, a_damaged_row_is_an_error_and_not_a_guess) {
  {
    auto opened = open_sqlite_store(file);
    ASSERT_TRUE((*opened)->write(some_records()));
  }
  run_sql(file, "UPDATE nodes SET document = '{\"name\": 7}'");
  auto state = (*open_sqlite_store(file))->load();
  ASSERT_FALSE(state);
  EXPECT_EQ(state.error().code, errc::corrupt);
}

TEST_F(sqlite_store_test, D6_says_which_file_it_cannot_open) {
  auto opened = open_sqlite_store(folder / "missing" / "state.db");
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, errc::permission_denied);
  EXPECT_THAT(opened.error().message, HasSubstr("missing"));
}

// A write that fails half way.
TEST_F(sqlite_store_test, a_failed_write_changes_nothing) {
  auto opened = open_sqlite_store(file);
  ASSERT_TRUE((*opened)->write(some_records()));
  auto records = some_records();
  std::get<cluster_record>(records[0]).epoch = {18};
  run_sql(file, "DROP TABLE commands");  // the last record of the write will find no place
  auto written = (*opened)->write(records);
  ASSERT_FALSE(written);
  run_sql(file, "CREATE TABLE commands(id TEXT PRIMARY KEY, number INTEGER NOT NULL, outcome TEXT NOT NULL)");
  auto state = (*opened)->load();
  ASSERT_TRUE(state) << state.error().message;
  EXPECT_EQ(state->cluster->epoch.value, 17U) << "all or nothing";
}

}  // namespace
}  // namespace troupe::coordinator
