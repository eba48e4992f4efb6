#include "coordinator/shell/documents.hpp"

#include <gmock/gmock.h>
#include <nlohmann/json.hpp>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator {
namespace {

using namespace testing;
using nlohmann::json;
using ::testing::HasSubstr;

document_context context() {
  return {"coordinator",
          "ipc:///c.control.ipc",
          77,
          1,
          "tiny",
          "mixtral",
          std::chrono::system_clock::time_point{1'700'000'000s}};
}

TEST(documents, status_has_the_promised_fields) {
  core_harness cluster(settings_of(4));
  auto starting = json::parse(status_document(cluster.state(), context()));
  EXPECT_EQ(starting["state"], "starting");
  EXPECT_EQ(starting["unroutable_experts"], 4);
  cluster.add_expert_node("expert-0");
  cluster.converge();
  auto status = json::parse(status_document(cluster.state(), context()));
  EXPECT_EQ(status["cluster_id"], "here");
  EXPECT_EQ(status["state"], "serving");
  EXPECT_EQ(status["term"], 1);
  EXPECT_GT(status["epoch"], 0);
  EXPECT_EQ(status["model"]["name"], "tiny");
  EXPECT_EQ(status["model"]["family"], "mixtral");
  EXPECT_EQ(status["model"]["layers"], 1);
  EXPECT_EQ(status["model"]["experts_per_layer"], 4);
  EXPECT_EQ(status["nodes"].size(), 2U);
  EXPECT_EQ(status["unroutable_experts"], 0);
  EXPECT_EQ(status["operations_running"], 0);
  EXPECT_TRUE(status["reasons"].empty());
}

TEST(documents, status_says_why_a_cluster_is_degraded) {
  core_harness cluster(settings_of(3, 2, 1));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  auto status = json::parse(status_document(cluster.state(), context()));
  EXPECT_EQ(status["state"], "degraded");
  EXPECT_THAT(status["reasons"].dump(), HasSubstr("replication 2 needs as many expert nodes, there are 1"));
}

TEST(documents, node_list_has_the_coordinator_and_every_node) {
  core_harness cluster(settings_of(4));
  cluster.add_expert_node("expert-0", 6);
  cluster.add_router("router-0");
  cluster.converge();
  auto items = json::parse(*nodes_document(cluster.state(), context(), ""))["items"];
  ASSERT_EQ(items.size(), 3U);
  EXPECT_EQ(items[0]["role"], "coordinator");
  EXPECT_EQ(items[0]["pid"], 77);
  for (const auto& item : items) {
    for (const char* field : {"name", "role", "state", "pid", "address", "device", "slots_total", "slots_used",
                              "bytes_resident", "bytes_capacity", "incarnation"}) {
      EXPECT_TRUE(item.contains(field)) << field;
    }
  }
  EXPECT_EQ(items[1]["name"], "expert-0");
  EXPECT_EQ(items[1]["state"], "serving");
  EXPECT_EQ(items[1]["slots_total"], 6);
  EXPECT_EQ(items[1]["slots_used"], 4);
  EXPECT_EQ(items[1]["bytes_resident"], 440);
  EXPECT_EQ(items[2]["role"], "router");
  EXPECT_EQ(nodes_document(cluster.state(), context(), "nobody").error().code, errc::not_found);
}

TEST(documents, node_list_has_the_rows_per_second_between_two_reports) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  const auto rate = [&] {
    return json::parse(*nodes_document(cluster.state(), context(), "expert-0"))["items"][0]["rows_per_second"];
  };
  const auto report = [&](std::uint64_t rows_total) {
    cluster.step(stats_report{{"expert-0"}, {1}, 0, 0, {{{layer_id::of(0), 0}, rows_total, 1}}});
  };
  report(500);  // since the node began: nobody knows in which time
  EXPECT_EQ(rate(), 0);
  cluster.pass(2s);
  report(600);
  EXPECT_EQ(rate(), 50);
  cluster.pass(1s);
  cluster.step(stats_report{{"expert-0"}, {1}, 0, 0, {}});
  EXPECT_EQ(rate(), 0);
}

TEST(documents, expert_list_says_what_is_wanted_once_there_is_a_plan) {
  core_harness cluster(settings_of(2));
  EXPECT_TRUE(json::parse(*experts_document(cluster.state(), context(), ""))["items"][0]["wanted"].is_null());
  cluster.add_expert_node("expert-0");
  cluster.converge();
  auto experts = json::parse(*experts_document(cluster.state(), context(), ""));
  EXPECT_EQ(experts["items"][0]["wanted"], json::array({"expert-0"}));
  EXPECT_EQ(experts["epoch"], cluster.state().published->epoch.value);
  EXPECT_EQ(experts["term"], 1);
}

TEST(documents, expert_list_counts_tokens_and_shares) {
  core_harness cluster(settings_of(2));
  cluster.add_expert_node("expert-0");
  cluster.converge();
  cluster.step(stats_report{{"expert-0"}, {1}, 0, 0, {{{layer_id::of(0), 0}, 30, 1}, {{layer_id::of(0), 1}, 10, 1}}});
  auto items = json::parse(*experts_document(cluster.state(), context(), "0"))["items"];
  ASSERT_EQ(items.size(), 2U);
  EXPECT_EQ(items[0]["layer"], 0);
  EXPECT_EQ(items[0]["expert"], 0);
  EXPECT_EQ(items[0]["state"], "active");
  EXPECT_EQ(items[0]["version"], 1);
  EXPECT_EQ(items[0]["digest"].get<std::string>().substr(0, 4), "0100");
  EXPECT_EQ(items[0]["bytes"], 100);
  EXPECT_EQ(items[0]["replicas"][0]["node"], "expert-0");
  EXPECT_EQ(items[0]["tokens_total"], 30);
  EXPECT_DOUBLE_EQ(items[0]["share"], 0.75);
  EXPECT_EQ(items[0]["last_used"], "2023-11-14T22:13:20.000Z");
  EXPECT_EQ(items[0]["pinned"], false);
  auto unknown = experts_document(cluster.state(), context(), "9");
  ASSERT_FALSE(unknown);
  EXPECT_THAT(unknown.error().message, HasSubstr("no MoE layer 9; there are 0"));
}

TEST(documents, a_drained_node_shows_its_progress) {
  core_harness cluster(settings_of(4, 1, 2));
  cluster.add_expert_node("expert-0");
  cluster.add_expert_node("expert-1");
  cluster.converge();
  ASSERT_TRUE(cluster.command(drain_node{{"expert-1"}, false}));
  cluster.pass(100ms);
  auto item = json::parse(*nodes_document(cluster.state(), context(), "expert-1"))["items"][0];
  EXPECT_EQ(item["state"], "draining");
  EXPECT_EQ(item["drain"]["state"], "running");
  EXPECT_EQ(item["drain"]["replicas_total"], 2);
  EXPECT_EQ(json::parse(status_document(cluster.state(), context()))["operations_running"], 1);
  cluster.converge();
  item = json::parse(*nodes_document(cluster.state(), context(), "expert-1"))["items"][0];
  EXPECT_EQ(item["drain"]["state"], "done");
  EXPECT_EQ(item["slots_used"], 0);
}

TEST(documents, events_are_numbered_and_bounded) {
  event_log events;
  for (std::size_t i = 0; i < limits::events_kept_max + 5; ++i) {
    events.add({severity::warning, "node_lost", "expert-0", "it is gone"}, std::chrono::system_clock::time_point{});
  }
  auto items = json::parse(events_document(events, 0))["items"];
  EXPECT_EQ(items.size(), limits::events_kept_max);
  EXPECT_EQ(items[0]["id"], 6);
  EXPECT_EQ(items[0]["severity"], "warning");
  auto newest = items.back()["id"].get<std::uint64_t>();
  EXPECT_EQ(json::parse(events_document(events, newest - 1))["items"].size(), 1U);
}

}  // namespace
}  // namespace troupe::coordinator
