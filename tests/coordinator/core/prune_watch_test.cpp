// What pruning has seen of experts outlives a restart of the coordinator.
#include "coordinator/core/prune_watch.hpp"

#include <gmock/gmock.h>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using ::testing::ElementsAre;

const layer_id layer = layer_id::of(0);
const expert_id expert{layer, 3};

TEST(traffic_window_over_a_restart, goes_on_with_the_same_rows_in_the_same_parts) {
  traffic_window before(60s);
  time_point now{10h};
  before.report({"a"}, {1}, expert, 100, now);
  before.report({"a"}, {1}, expert, 130, now + 20s);
  auto parts = before.parts_of(expert, now + 25s);
  EXPECT_THAT(parts, ElementsAre(0, 0, 0, 100, 0, 30));

  traffic_window after(60s);
  after.restore(expert, parts, now + 25s);
  EXPECT_EQ(after.parts_of(expert, now + 25s), parts);
  EXPECT_EQ(after.of(expert, now + 30s).rows_in_window, 130U);
  EXPECT_EQ(after.of(expert, now + 65s).rows_in_window, 30U);
  EXPECT_EQ(after.of(expert, now + 200s).rows_in_window, 0U);
}

TEST(traffic_window_over_a_restart, what_was_before_the_machines_start_counts_too) {
  traffic_window window(24h);
  window.restore(expert, {1, 2, 3, 4, 5, 6}, time_point{30s} - 20min);
  EXPECT_EQ(window.of(expert, time_point{30s}).rows_in_window, 21U);
}

TEST(traffic_window_over_a_restart, a_node_that_was_there_before_begins_with_its_next_report) {
  traffic_window window(60s);
  time_point now{10h};
  window.restore(expert, {0, 0, 0, 0, 0, 500}, now);
  window.begin_with_next_report({"a"}, {7});
  window.report({"a"}, {7}, expert, 9'000, now);
  EXPECT_EQ(window.of(expert, now).rows_in_window, 500U);
  window.report({"a"}, {7}, expert, 9'010, now);
  EXPECT_EQ(window.of(expert, now).rows_in_window, 510U);
  window.report({"b"}, {1}, expert, 40, now);  // new
  EXPECT_EQ(window.of(expert, now).rows_in_window, 550U);
  window.report({"a"}, {8}, expert, 5, now);  // started anew
  EXPECT_EQ(window.of(expert, now).rows_in_window, 555U);
}

class prune_watch_in_a_cluster : public ::testing::Test {
 protected:
  static cluster_settings settings(std::chrono::seconds window = 60s) {
    auto made = settings_of(4, 1, 2);
    made.gates[layer].num_experts = 4;
    made.gates[layer].top_k = 2;
    made.policies.prunes = true;
    made.policies.prune_window = window;
    made.started_unix_ms = first_start;
    return made;
  }
  void SetUp() override {
    h.emplace(settings());
    for (const char* name : {"a", "b"}) h->add_expert_node(name);
    h->add_router("r");
    h->converge(10s);
  }
  void work(std::chrono::seconds length) {
    for (auto second = 0s; second < length; ++second) {
      for (std::uint32_t e = 0; e < 4; ++e) rows_[e] += e == 3 ? 1 : 300;
      for (const auto& [name, slots] : std::map(h->held)) {
        stats_report report{{name}, {1}, 0, 0, {}};
        for (const auto& slot : slots)
          report.experts.push_back({slot.expert, rows_[slot.expert.index], 0, 0, 0, double(rows_[slot.expert.index])});
        h->step(report);
      }
      h->converge(1s);
    }
  }
  // The coordinator is away for so long.
  void restart(std::chrono::seconds gap, cluster_settings again = settings()) {
    auto ran = std::chrono::duration_cast<std::chrono::milliseconds>(h->now - time_point{10h});
    again.started_unix_ms = started_unix_ms_ += (ran + gap).count();
    auto disk = h->disk();
    auto held = h->held;
    h.emplace(std::move(again), disk);
    for (const char* name : {"a", "b"}) {
      h->join(name);
      h->beating[name] = 1;
      h->report(name, held[name]);
    }
    h->add_router("r");
  }
  [[nodiscard]] std::uint64_t rows_seen() const { return h->state().long_traffic.of(expert, h->now).rows_in_window; }
  // The policy has pruned the expert that hardly any row chose.
  [[nodiscard]] bool is_pruned() const { return h->state().operations.size() == 1; }

  static constexpr std::int64_t first_start = 1'000'000;
  std::optional<core_harness> h;
  std::int64_t started_unix_ms_{first_start};
  std::map<std::uint32_t, std::uint64_t> rows_;
};

TEST_F(prune_watch_in_a_cluster, a_restart_does_not_begin_the_window_anew) {
  work(40s);
  EXPECT_FALSE(is_pruned());
  restart(0s);
  EXPECT_THAT(rows_seen(), ::testing::AllOf(::testing::Ge(36U), ::testing::Le(40U)));
  work(4s);
  EXPECT_LE(rows_seen(), 45U) << "what the nodes told before is counted once";
  EXPECT_FALSE(is_pruned());
  work(20s);
  EXPECT_TRUE(is_pruned());
}

TEST_F(prune_watch_in_a_cluster, many_restarts_do_not_either) {
  for (int i = 0; i < 6; ++i) {
    work(12s);
    restart(0s);
  }
  work(4s);
  EXPECT_TRUE(is_pruned());
}

TEST_F(prune_watch_in_a_cluster, after_a_long_stop_it_begins_anew) {
  work(40s);
  restart(10s);
  EXPECT_EQ(rows_seen(), 0U);
  work(24s);
  EXPECT_FALSE(is_pruned());
  work(60s);
  EXPECT_TRUE(is_pruned());
}

TEST_F(prune_watch_in_a_cluster, another_window_is_another_watch) {
  work(40s);
  restart(0s, settings(90s));
  EXPECT_EQ(rows_seen(), 0U);
}

TEST_F(prune_watch_in_a_cluster, nothing_is_written_where_nobody_prunes) {
  auto made = settings();
  made.policies.prunes = false;
  h.emplace(std::move(made));
  for (const char* name : {"a", "b"}) h->add_expert_node(name);
  h->add_router("r");
  h->converge(10s);
  work(5s);
  EXPECT_THAT(h->disk().watches, ::testing::IsEmpty());
}

}  // namespace
}  // namespace troupe::coordinator::testing
