// Whole expert nodes in this process, with a coordinator and a router that the test plays.
#include "expert_node/shell/node.hpp"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/shared_memory.hpp"
#include "compute/device.hpp"
#include "model/checkpoint.hpp"
#include "proto/router_expert.pb.h"
#include "tests/common/fake_coordinator.hpp"
#include "tests/common/http_client.hpp"

namespace troupe::expert {
namespace {

using wire::eventually;
using wire::must;
using wire::receive_within;

constexpr expert_id wanted{layer_id::of(1), 2};

class node_test : public ::testing::Test {
 protected:
  node_test() { use("dev/mixtral"); }

  void use(const char* golden) {
    model_folder = std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden" / golden;
    checkpoint = std::make_shared<model::checkpoint>(must(model::checkpoint::open(model_folder)));
    layout = checkpoint->model().find(wanted);
    bundle.resize(layout->bytes());
    must(checkpoint->read_bundle(*layout, bundle));
  }

  node_options options(const std::string& name) {
    node_options chosen;
    chosen.name = {name};
    chosen.data_dir = folder.path();
    chosen.run_dir = folder.path();
    chosen.model = model_folder;
    chosen.type = dtype::f32;
    chosen.device = device_kind::reference;
    chosen.slots = 4;
    return chosen;
  }

  std::unique_ptr<expert_node> start(node_options chosen) {
    return must(expert_node::start(std::move(chosen), [this](std::string reason) { failure = std::move(reason); }));
  }

  void order_load(std::uint32_t slot, const std::string& peer = "") {
    proto::CoordinatorToNode message;
    auto& load = *message.mutable_load();
    load.set_term(1);
    load.set_command(++commands);
    load.set_slot(slot);
    load.set_layer(wanted.layer.value);
    load.set_expert(wanted.index);
    load.set_version(1);
    const auto digest = model::digest_of(bundle);
    load.set_digest(digest.data(), digest.size());
    if (!peer.empty()) {
      load.add_peers()->set_node("expert-0");
      load.mutable_peers(0)->set_address(peer);
    }
    coordinator.send(message);
  }

  void order_free(std::uint32_t slot) {
    proto::CoordinatorToNode message;
    auto& free = *message.mutable_free();
    free.set_term(1);
    free.set_command(++commands);
    free.set_slot(slot);
    free.set_layer(wanted.layer.value);
    free.set_expert(wanted.index);
    free.set_version(1);
    coordinator.send(message);
  }

  // The newest inventory of a node says about that slot: its state, or UNSPECIFIED when it is empty.
  proto::SlotState state_of(const std::string& name, std::uint32_t slot) {
    auto found = proto::SLOT_STATE_UNSPECIFIED;
    for (const auto& message : coordinator.got(proto::NodeToCoordinator::kInventory)) {
      if (message.inventory().node() != name) continue;
      found = proto::SLOT_STATE_UNSPECIFIED;
      for (const auto& report : message.inventory().slots()) {
        if (report.slot() == slot) found = report.state();
      }
    }
    return found;
  }

  bool becomes(const std::string& name, std::uint32_t slot, proto::SlotState state) {
    return eventually([&] { return state_of(name, slot) == state; });
  }

  struct two_nodes {
    std::unique_ptr<expert_node> giver, taker;
  };
  // The giver loads the bundle from its files into slot 0, the taker has none and gets it from the giver into slot 3.
  void fetch_from_peer(two_nodes& nodes) {
    nodes.giver = start(options("expert-0"));
    ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; }));
    publish_map();
    order_load(0);
    ASSERT_TRUE(becomes("expert-0", 0, proto::READY));
    auto without = options("expert-1");
    without.model.reset();
    without.memory_bytes = 4 * limits::mib;
    nodes.taker = start(std::move(without));
    ASSERT_TRUE(eventually([&] { return coordinator.joins() == 2; }));
    publish_map();
    order_load(3, nodes.giver->peer_address());  // goes to the newest connection
    ASSERT_TRUE(becomes("expert-1", 3, proto::READY)) << "verified against the digest of the checkpoint's bytes";
  }

  void publish_map() {
    proto::CoordinatorToNode message;
    to_proto(cluster_map{{1}, {1}, "c1", "f", {}, {}}, *message.mutable_map());
    coordinator.send(message);
  }

  wire::socket connect_router(const expert_node& node) {
    auto router = must(wire::socket::open(context, wire::socket_kind::dealer));
    must(router.connect(node.data_address()));
    proto::RouterToExpert hello;
    hello.mutable_hello()->set_wire_major(limits::wire_version_major);
    hello.mutable_hello()->set_cluster_id("c1");
    hello.mutable_hello()->set_node("router-0");
    hello.mutable_hello()->set_incarnation(1);
    // Until the node has met its coordinator it answers "retry later".
    EXPECT_TRUE(eventually([&] {
      if (!wire::outgoing_message{}.send(router, hello)) return false;
      proto::ExpertToRouter answer;
      auto got = receive_within(router);
      return got && must(std::move(got->message)).parse(answer) && answer.has_welcome();
    }));
    return router;
  }

  static troupe::testing::http_answer get(std::uint16_t port, std::string_view path) {
    return troupe::testing::http_client{port}.call("GET", path);
  }

  // One row through one expert with gate weight 0.5.
  std::pair<proto::ExpertsDone, std::vector<float>> run_row(wire::socket& router, const std::vector<float>& row) {
    proto::RouterToExpert envelope;
    auto& run = *envelope.mutable_run();
    run.set_request_id(++requests);
    run.set_layer(wanted.layer.value);
    run.set_timeout_ms(10'000);
    auto& expert = *run.add_experts();
    expert.set_expert(wanted.index);
    expert.set_version(1);
    expert.set_assignments(1);
    wire::outgoing_message message;
    const std::array<std::uint64_t, 2> shape{1, row.size()};
    must(message.attach(*run.mutable_hidden(), dtype::f32, shape, std::as_bytes(std::span{row})));
    const std::array<std::uint64_t, 1> one{1};
    const std::int32_t index = 0;
    const float weight = 0.5F;
    must(message.attach(*run.mutable_row_index(), dtype::i32, one, std::as_bytes(std::span{&index, 1})));
    must(message.attach(*run.mutable_gate_weight(), dtype::f32, one, std::as_bytes(std::span{&weight, 1})));
    must(message.send(router, envelope));
    auto got = receive_within(router);
    proto::ExpertToRouter answer;
    std::vector<float> output;
    if (!got) return {};
    auto received = must(std::move(got->message));
    must(received.parse(answer));
    if (answer.done().has_output()) {
      auto view = must(received.tensor(answer.done().output(), "output"));
      output.resize(view.bytes.size() / sizeof(float));
      std::memcpy(output.data(), view.bytes.data(), view.bytes.size());
    }
    return {answer.done(), output};
  }

  wire::temporary_folder folder;
  std::filesystem::path model_folder;
  std::shared_ptr<const model::checkpoint> checkpoint;
  const model::bundle_layout* layout{};
  std::vector<std::byte> bundle;
  node::fake_coordinator coordinator{folder};
  std::shared_ptr<wire::context> context = must(wire::context::make());
  std::uint64_t commands{};
  std::uint64_t requests{};
  std::string failure;
};

TEST_F(node_test, joins_loads_serves_exactly_and_frees) {
  auto node = start(options("expert-0"));
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; }));
  auto join = coordinator.got(proto::NodeToCoordinator::kJoin)[0].join();
  EXPECT_EQ(join.slots_total(), 4U);
  EXPECT_EQ(join.dtype(), "f32");
  EXPECT_EQ(join.model_fingerprint(), checkpoint->model().fingerprint);
  publish_map();
  order_load(2);
  ASSERT_TRUE(becomes("expert-0", 2, proto::READY));

  auto router = connect_router(*node);
  auto sample = must(compute::make_probe(*layout, bundle, dtype::f32));
  auto [done, output] = run_row(router, sample.row);
  EXPECT_FALSE(done.has_error()) << done.error().message();
  EXPECT_EQ(done.incarnation(), join.incarnation());
  ASSERT_EQ(output.size(), sample.expected.size());
  double largest = 0;
  for (double value : sample.expected) largest = std::max(largest, std::abs(value));
  for (std::size_t i = 0; i < output.size(); ++i) {
    EXPECT_NEAR(output[i], 0.5 * sample.expected[i], 2e-5 * largest) << i;
  }
  ASSERT_TRUE(eventually([&] {
    for (const auto& message : coordinator.got(proto::NodeToCoordinator::kStats)) {
      if (message.stats().experts_size() == 1 && message.stats().experts(0).rows_total() == 1) return true;
    }
    return false;
  }));

  order_free(2);
  ASSERT_TRUE(becomes("expert-0", 2, proto::SLOT_STATE_UNSPECIFIED));
  auto [refused, nothing] = run_row(router, sample.row);
  EXPECT_EQ(refused.error().code(), proto::UNKNOWN_EXPERT);
  EXPECT_TRUE(nothing.empty());
}

TEST_F(node_test, a_second_node_without_files_fetches_the_bundle_from_the_first) {
  two_nodes nodes;
  ASSERT_NO_FATAL_FAILURE(fetch_from_peer(nodes));
  auto router = connect_router(*nodes.taker);
  auto sample = must(compute::make_probe(*layout, bundle, dtype::f32));
  EXPECT_EQ(run_row(router, sample.row).second.size(), sample.expected.size());
}

// A slot holds widened weights, so the first one gives what its files say.
TEST_F(node_test, quantised_bundles_are_given_from_the_files) {
  use("quantised/deepseek_v3_fp8");
  two_nodes nodes;
  ASSERT_NO_FATAL_FAILURE(fetch_from_peer(nodes));
  auto router = connect_router(*nodes.taker);
  auto sample = must(compute::make_probe(*layout, bundle, dtype::f32));
  auto [done, output] = run_row(router, sample.row);
  ASSERT_EQ(output.size(), sample.expected.size());
  for (std::size_t c = 0; c < output.size(); ++c) {
    EXPECT_NEAR(output[c], 0.5 * sample.expected[c], 1e-4 * std::abs(sample.expected[c]) + 1e-3);
  }
}

TEST_F(node_test, p2_a_node_that_was_given_up_joins_again_and_keeps_its_slots) {
  auto node = start(options("expert-0"));
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; }));
  publish_map();
  order_load(1);
  ASSERT_TRUE(becomes("expert-0", 1, proto::READY));
  const auto old = coordinator.got(proto::NodeToCoordinator::kJoin)[0].join().incarnation();
  coordinator.change([&](auto& script) { script.lost_incarnation = old; });
  ASSERT_TRUE(eventually([&] {
    for (const auto& message : coordinator.got(proto::NodeToCoordinator::kInventory)) {
      if (message.inventory().incarnation() > old && message.inventory().slots_size() == 1) return true;
    }
    return false;
  }));
  EXPECT_EQ(state_of("expert-0", 1), proto::READY);
  auto router = connect_router(*node);
  auto sample = must(compute::make_probe(*layout, bundle, dtype::f32));
  EXPECT_GT(run_row(router, sample.row).first.incarnation(), old);
}

TEST_F(node_test, says_goodbye_and_answers_probes) {
  auto node = start(options("expert-0"));
  publish_map();
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; }));
  const auto colon = node->http_address().rfind(':');
  const auto port = static_cast<std::uint16_t>(std::stoi(node->http_address().substr(colon + 1)));
  ASSERT_TRUE(eventually([&] { return get(port, "/readyz").status == 200; }));
  auto metrics = get(port, "/metrics").body;
  for (const char* name : {"moe_build_info", "moe_placement_epoch", "moe_peer_up", "moe_expert_queue_depth",
                           "moe_frames_rejected_total", "process_resident_memory_bytes"}) {
    EXPECT_NE(metrics.find(name), std::string::npos) << name;
  }
  node->stop(std::chrono::seconds{1});
  EXPECT_TRUE(eventually([&] { return coordinator.got(proto::NodeToCoordinator::kLeave).size() == 1; }));
  EXPECT_TRUE(failure.empty()) << failure;
}

TEST_F(node_test, is_ready_without_a_coordinator_and_says_that_it_is_lost) {
  auto node = start(options("expert-0"));
  const auto colon = node->http_address().rfind(':');
  const auto port = static_cast<std::uint16_t>(std::stoi(node->http_address().substr(colon + 1)));
  EXPECT_EQ(get(port, "/readyz").status, 503) << "there is no map yet";
  publish_map();
  ASSERT_TRUE(eventually([&] { return get(port, "/readyz").status == 200; }));
  coordinator.change([](auto& script) { script.answer_heartbeats = false; });
  ASSERT_TRUE(eventually([&] {
    return get(port, "/readyz?verbose").body.find("[+]coordinator ok: lost, serving on the last map") !=
           std::string::npos;
  }));
  EXPECT_EQ(get(port, "/readyz").status, 200);
}

TEST_F(node_test, n12_an_address_in_use_is_named) {
  auto node = start(options("expert-0"));
  auto again = options("expert-0");
  auto refused = expert_node::start(again, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().message.find("expert-0.data.ipc"), std::string::npos) << refused.error().message;
}

TEST_F(node_test, options_that_cannot_work_name_their_flags) {
  auto without = options("expert-0");
  without.model.reset();
  auto refused = expert_node::start(without, {});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("--memory"), std::string::npos);
  auto misnamed = options("Expert");
  EXPECT_NE(validate(misnamed).error().message.find("--name"), std::string::npos);
}

}  // namespace
}  // namespace troupe::expert
