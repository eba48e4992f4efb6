// The coordinator's metrics page: what it knows, under the promised names.
#include "coordinator/shell/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::coordinator {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string page(public_view view) {
  view.map = std::make_shared<const cluster_map>(cluster_map{{3}, {7}, "here", "model-a", {}, {}});
  auto box = std::make_shared<public_view_box>();
  box->set(std::move(view));
  http::metrics_registry registry;
  registry.add(coordinator_metrics(box));
  return registry.text();
}

TEST(coordinator_metrics, migrations_prunes_and_refreshes) {
  public_view view;
  EXPECT_THAT(page(view), Not(HasSubstr("moe_refresh_last_success_timestamp_seconds"))) << "there was none";
  view.totals.migrations_begun = 5;
  view.totals.ended[{operation_kind::migrate, operation_state::done}] = 2;
  view.totals.ended[{operation_kind::migrate, operation_state::failed}] = 1;
  view.totals.ended[{operation_kind::migrate, operation_state::rolled_back}] = 1;
  view.totals.ended[{operation_kind::prune, operation_state::done}] = 4;
  view.totals.count_migration(std::chrono::milliseconds(700));
  view.totals.count_migration(std::chrono::hours(1));
  view.totals.refreshes_unchanged = 6;
  view.totals.refreshed_unix_ms = 1'700'000'000'500;
  const auto text = page(view);
  for (const char* line :
       {"moe_migration_started_total 5", "moe_migration_completed_total 2", "moe_migration_failed_total 2",
        "moe_migration_duration_seconds_bucket{le=\"0.5\"} 0", "moe_migration_duration_seconds_bucket{le=\"1\"} 1",
        "moe_migration_duration_seconds_bucket{le=\"+Inf\"} 2", "moe_migration_duration_seconds_sum 3600.7",
        "moe_pruned_experts_total 4", "moe_refresh_unchanged_total 6",
        "moe_refresh_last_success_timestamp_seconds 1700000000.5"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

TEST(coordinator_metrics, peers_and_actors) {
  public_view view;
  view.peers[{"expert-0"}] = {true, 0, 0};
  view.peers[{"expert-1"}] = {false, 12, 2};
  view.mailboxes = {{"coordinator", 9.0}, {"store", 1.0}};
  const auto text = page(view);
  for (const char* line :
       {"moe_peer_up{peer=\"expert-0\"} 1", "moe_peer_up{peer=\"expert-1\"} 0",
        "moe_heartbeats_missed_total{peer=\"expert-1\"} 12", "moe_actor_restarts_total{name=\"coordinator\"} 2",
        "moe_actor_restarts_total{name=\"expert-1\"} 2", "moe_actor_mailbox_depth{name=\"coordinator\"} 9",
        "moe_actor_mailbox_depth{name=\"store\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

}  // namespace
}  // namespace troupe::coordinator
