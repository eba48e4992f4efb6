#include "cli/launch_plan.hpp"

#include <gmock/gmock.h>

#include <algorithm>
#include <map>
#include <set>

#include "model/description.hpp"

namespace troupe::cli {
namespace {

using testing::Contains;
using testing::HasSubstr;

constexpr machine_facts big_machine{8, 1ULL << 40};

launch_inputs inputs() {
  return {.data_dir = "/data",
          .run_dir = "/data/run",
          .programs = "/opt/troupe/bin",
          .model = "/models/mixtral",
          .model_fingerprint = "abc",
          .cluster_id = "11111111-2222-3333-4444-555555555555",
          .slots = 6,
          .threads = 2,
          .router_threads = 4};
}

// The word that follows `flag` on a command line; empty when it is not there.
std::string value_of(const process_entry& process, const std::string& flag) {
  const auto found = std::find(process.command.begin(), process.command.end(), flag);
  return found == process.command.end() ? "" : *(found + 1);
}

TEST(launch_plan, every_process_has_a_complete_command_line) {
  const auto plan = plan_cluster(inputs(), {});
  ASSERT_TRUE(plan) << plan.error().message;
  ASSERT_EQ(plan->processes.size(), 5U);
  for (const auto& process : plan->processes) {
    EXPECT_EQ(process.command.front(), "/opt/troupe/bin/troupe-" + process.role);
    EXPECT_EQ(value_of(process, "--name"), process.name);
    EXPECT_EQ(value_of(process, "--data-dir"), "/data");
    EXPECT_EQ(value_of(process, "--run-dir"), "/data/run");
    EXPECT_EQ(value_of(process, "--model"), "/models/mixtral");
    EXPECT_THAT(value_of(process, "--http"), testing::MatchesRegex("127\\.0\\.0\\.1:[23][0-9]{4}"))
        << "a port of its own, chosen now";
  }
  EXPECT_EQ(value_of(plan->processes[1], "--slots"), "6");
  EXPECT_EQ(value_of(plan->processes[1], "--coordinator"), "ipc:///data/run/coordinator.control.ipc");
  EXPECT_EQ(plan->routers.front().client, "ipc:///data/run/router-0.client.ipc");
  EXPECT_EQ(value_of(plan->processes[4], "--threads"), "4");
  EXPECT_EQ(value_of(plan->processes[4], "--kv-memory"), "") << "the router chooses";
}

TEST(launch_plan, every_expert_node_has_a_gpu_of_its_own) {
  cluster_options options;
  options.device = "cuda";
  const auto plan = plan_cluster(inputs(), options);
  ASSERT_TRUE(plan) << plan.error().message;
  std::map<std::string, std::string> devices;
  for (const auto& process : plan->processes) devices[process.name] = value_of(process, "--device");
  EXPECT_EQ(devices.at("expert-0"), "cuda:0");
  EXPECT_EQ(devices.at("expert-2"), "cuda:2");
  EXPECT_EQ(devices.at("router-0"), "");
}

TEST(launch_plan, expert_nodes_link_their_gpus_when_they_are_told_to_and_have_some) {
  cluster_options options;
  options.link_gpus = true;
  EXPECT_THAT(check_options(options).error().message, HasSubstr("--device cuda"));
  options.device = "cuda";
  ASSERT_TRUE(check_options(options));
  const auto plan = plan_cluster(inputs(), options);
  ASSERT_TRUE(plan) << plan.error().message;
  for (const auto& process : plan->processes) {
    EXPECT_EQ(std::ranges::count(process.command, "--link-gpus"), process.role == "expert" ? 1 : 0) << process.name;
  }
}

TEST(launch_plan, an_address_that_is_none_can_never_be_right) {
  cluster_options options;
  EXPECT_TRUE(check_options(options));
  options.http = "nonsense";
  EXPECT_FALSE(check_options(options));
}

TEST(launch_plan, routers_pin_streams_when_they_are_told_to) {
  cluster_options options;
  EXPECT_THAT(plan_cluster(inputs(), options)->processes[4].command, testing::Not(Contains("--pin-streams")));
  options.pin_streams = true;
  const auto plan = plan_cluster(inputs(), options);
  for (const auto& process : plan->processes) {
    EXPECT_EQ(std::ranges::count(process.command, "--pin-streams"), process.role == "router" ? 1 : 0) << process.name;
  }
}

TEST(launch_plan, what_texts_need_goes_to_every_router) {
  cluster_options options;
  options.routers = 2;
  options.kv_memory = std::uint64_t{1} << 30;
  options.api_key_file = "/etc/troupe/keys";
  options.no_auth = true;
  const auto plan = plan_cluster(inputs(), options);
  ASSERT_TRUE(plan) << plan.error().message;
  for (const auto& process : plan->processes) {
    const bool is_router = process.role == "router";
    EXPECT_EQ(value_of(process, "--kv-memory"), is_router ? "1073741824" : "");
    EXPECT_EQ(value_of(process, "--api-key-file"), is_router ? "/etc/troupe/keys" : "");
    EXPECT_EQ(std::ranges::count(process.command, "--no-auth"), is_router ? 1 : 0);
  }
}

TEST(launch_plan, no_two_processes_share_a_port) {
  cluster_options options;
  options.expert_nodes = 20;
  options.routers = 3;
  options.transport = "tcp";
  const auto plan = plan_cluster(inputs(), options);
  ASSERT_TRUE(plan) << plan.error().message;
  std::set<std::string> ports;
  for (const auto& process : plan->processes) {
    const std::string http = value_of(process, "--http");
    EXPECT_TRUE(ports.insert(http.substr(http.rfind(':') + 1)).second) << http;
    const std::string listen = value_of(process, "--listen");
    const int first = std::stoi(listen.substr(listen.rfind(':') + 1));
    const int siblings = process.role == "coordinator" ? 3 : process.role == "expert" ? 2 : 1;
    for (int i = 0; i < siblings; ++i) EXPECT_TRUE(ports.insert(std::to_string(first + i)).second) << listen;
  }
}

TEST(launch_plan, only_the_first_router_gets_the_address_that_was_asked_for) {
  cluster_options options;
  options.routers = 2;
  const auto port = [] {
    const auto plan = plan_cluster(inputs(), {});
    return plan->routers.front().http.substr(plan->routers.front().http.rfind(':') + 1);
  }();
  options.http = "127.0.0.1:" + port;
  const auto plan = plan_cluster(inputs(), options);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->routers[0].http, "http://127.0.0.1:" + port);
  EXPECT_NE(plan->routers[1].http, plan->routers[0].http);
}

const std::vector<std::uint32_t> four_layers{4, 4, 4, 4};

TEST(launch_plan, nodes_share_the_cores_but_have_two_where_there_are_two) {
  EXPECT_EQ(default_threads(1, 3), 1U);
  EXPECT_EQ(default_threads(2, 3), 2U);
  EXPECT_EQ(default_threads(4, 3), 2U);
  EXPECT_EQ(default_threads(64, 3), 21U);
}

TEST(launch_plan, slots_let_survivors_hold_everything) {
  cluster_options options;  // 3 nodes
  EXPECT_EQ(choose_slots(options, four_layers, 1000, big_machine), 8U);
  options.replication = 2;
  EXPECT_EQ(choose_slots(options, four_layers, 1000, big_machine), 16U);
}

TEST(launch_plan, slots_let_a_refresh_load_a_layer_beside_all_that_serves) {
  cluster_options options{.expert_nodes = 1};
  EXPECT_EQ(choose_slots(options, four_layers, 1000, big_machine), 20U);
  EXPECT_EQ(choose_slots(options, {2, 9, 5}, 1000, big_machine), 25U) << "the largest layer";
  options = {.expert_nodes = 8};
  EXPECT_EQ(choose_slots(options, {16, 16}, 1000, big_machine), 6U);
  options = {.expert_nodes = 3, .replication = 3};
  EXPECT_EQ(choose_slots(options, four_layers, 1000, big_machine), 20U);
}

TEST(launch_plan, slots_keep_within_the_memory) {
  const cluster_options options;
  // 80 % of 22,500 bytes are 18 slots of 1,000 for three nodes: six each, the eight that are wanted do not fit.
  EXPECT_EQ(choose_slots(options, four_layers, 1000, {2, 22'500}), 6U);
  const auto too_little = choose_slots(options, four_layers, 1000, {2, 18'000});
  ASSERT_FALSE(too_little);
  EXPECT_EQ(too_little.error().code, errc::out_of_memory);
  EXPECT_THAT(too_little.error().message, HasSubstr("--replication"));
}

TEST(launch_plan, slots_that_were_asked_for_must_suffice) {
  cluster_options options;
  options.slots = 5;
  const auto too_few = choose_slots(options, four_layers, 1000, big_machine);
  ASSERT_FALSE(too_few);
  EXPECT_THAT(too_few.error().message, HasSubstr("--slots 6"));
  options.slots = 40;
  EXPECT_EQ(choose_slots(options, four_layers, 1000, big_machine), 40U);
}

// faults.md C13
TEST(launch_plan, more_copies_than_nodes_are_refused) {
  cluster_options options;
  options.replication = 4;
  const auto good = check_options(options);
  ASSERT_FALSE(good);
  EXPECT_THAT(good.error().message, HasSubstr("--expert-nodes 4"));
}

TEST(launch_plan, slot_bytes_follow_shape_and_dtype) {
  model::description model;
  model.stored = dtype::bf16;
  model::moe_layer layer;
  layer.shape = {.hidden = 64, .width = 32, .act = model::activation::swiglu, .has_bias = true};
  model.layers.push_back(layer);
  const std::uint64_t biases = (2 * 32 + 64) * 4;
  EXPECT_GE(slot_bytes_of(model, "bf16"), 3 * 64 * 32 * 2 + biases);
  EXPECT_EQ(slot_bytes_of(model, "f32") - slot_bytes_of(model, "bf16"), 3U * 64 * 32 * 2);
  EXPECT_EQ(slot_bytes_of(model, "auto"), slot_bytes_of(model, "bf16"));
  for (auto [stored, computed] :
       {std::pair{dtype::f32, "f32"}, {dtype::f16, "f32"}, {dtype::f8_e4m3, "bf16"}, {dtype::u8, "bf16"}}) {
    model.stored = stored;
    EXPECT_EQ(slot_bytes_of(model, "auto"), slot_bytes_of(model, computed)) << to_string(stored);
  }
}

TEST(launch_plan, long_socket_paths_are_recognised) {
  EXPECT_TRUE(socket_paths_fit("/short/run"));
  EXPECT_FALSE(socket_paths_fit("/" + std::string(90, 'x') + "/run"));
}

}  // namespace
}  // namespace troupe::cli
