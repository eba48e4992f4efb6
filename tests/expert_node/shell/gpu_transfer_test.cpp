// An expert from one node's GPU to another's: real loader, peer server and ipc sockets; plain loops for both GPUs and a
// hub in this process for the link.
#include "expert_node/shell/gpu_transfer.hpp"

#include <gtest/gtest.h>

#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/loader.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "expert_node/shell/peer_server.hpp"
#include "model/checkpoint.hpp"
#include "tests/common/wire_fixture.hpp"
#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/sample_expert.hpp"
#include "tests/expert_node/shell/link_hub.hpp"

namespace troupe::expert {
namespace {

using compute::test::make_sample;
using testing::hub_end;
using testing::link_hub;
using wire::eventually;
using wire::must;

const model::expert_shape shape{40, 24, model::activation::swiglu, false};
const slot_content wanted{{layer_id::of(3), 7}, {1}};

// A node's device in this process.
struct gpu_node {
  explicit gpu_node(dtype type = dtype::bf16)
      : device{*compute::make_gpu_device(
            compute::test::make_loop_gpu(std::make_shared<compute::test::loop_gpu_state>()), type)},
        memory{std::make_shared<device_memory>(*device)} {
    must(device->reserve(2, device->slot_bytes(shape)));
  }
  std::unique_ptr<compute::device> device;
  std::shared_ptr<device_memory> memory;
};

struct gpu_transfer_test : ::testing::Test {
  compute::test::sample_expert sample = make_sample(shape, dtype::bf16, compute::test::stored_form::separate, 7);
  std::shared_ptr<const model::bundle_layout> layout = std::make_shared<model::bundle_layout>(sample.layout);
  std::shared_ptr<link_hub> hub = std::make_shared<link_hub>();
  link_opener open = [this] { return std::make_unique<hub_end>(hub); };
  wire::temporary_folder folder;
  std::shared_ptr<wire::context> context = must(wire::context::make());
  gpu_node giving;
  gpu_node taking;
  std::atomic<int> unpinned{};
  std::unique_ptr<gpu_giver> giver;
  std::unique_ptr<peer_server> served;
  std::mutex mutex;
  std::vector<finished_load> loaded;  // guarded by mutex, as failed
  std::vector<error> failed;
  std::unique_ptr<loader> tested;

  void start_giver(bool is_linking = true) {
    must(giving.memory->load({1}, *layout, sample.bundle));
    giver = std::make_unique<gpu_giver>(open, giving.memory, dtype::bf16);
    peer_server_settings settings;
    settings.context = context;
    settings.address = folder.ipc("giver.ipc");
    settings.identity = std::make_shared<node_identity>(node_id{"expert-1"}, "cluster-1", incarnation_number{1});
    settings.open = [this](const slot_content&, const auto& make_room) -> result<open_bundle> {
      open_bundle bundle{layout, must(make_room(layout->bytes()))};
      must(giving.memory->export_bundle({1}, *layout, bundle.bytes.bytes()));
      return bundle;
    };
    if (is_linking) {
      settings.link = [this](const link_request& asked) -> result<std::shared_ptr<const model::bundle_layout>> {
        EXPECT_EQ(asked.content, wanted);
        if (auto begun = giver->give(asked, {1}, layout, [this] { ++unpinned; }); !begun) return fail(begun.error());
        return layout;
      };
    }
    served = must(peer_server::start(std::move(settings)));
  }

  void start_taker(dtype type = dtype::bf16) {
    loader_settings settings;
    settings.layers = std::make_shared<layer_catalog>(nullptr);
    settings.memory = taking.memory;
    settings.type = type;
    settings.slot_bytes = taking.memory->slot_bytes(shape);
    settings.open_link = open;
    settings.fetching.context = context;
    settings.fetching.identity =
        std::make_shared<node_identity>(node_id{"expert-0"}, "cluster-1", incarnation_number{2});
    settings.loaded = [this](finished_load done) {
      std::lock_guard lock{mutex};
      loaded.push_back(std::move(done));
    };
    settings.failed = [this](slot_index, error reason) {
      std::lock_guard lock{mutex};
      failed.push_back(std::move(reason));
    };
    settings.unloaded = [](slot_index) {};
    tested = std::make_unique<loader>(std::move(settings));
  }

  // The wanted expert lies in the taker's slot 0 and computes there.
  void load_and_check(int over_links) {
    tested->load({{0}, wanted, model::digest_of(sample.bundle), {{{"expert-1"}, folder.ipc("giver.ipc"), ""}}});
    ASSERT_TRUE(eventually([this] {
      std::lock_guard lock{mutex};
      return !loaded.empty() || !failed.empty();
    }));
    ASSERT_TRUE(failed.empty()) << failed.front().message;
    EXPECT_EQ(loaded.front().facts.digest, model::digest_of(sample.bundle));
    EXPECT_EQ(loaded.front().layout->shape, shape);
    EXPECT_EQ(tested->counters().loads_over_links.value(), over_links);
    EXPECT_EQ(tested->counters().loads_from_peer.value(), 1);
    std::vector<std::byte> again(sample.bundle.size());
    ASSERT_TRUE(taking.memory->export_bundle({0}, *layout, again));
    EXPECT_EQ(again, sample.bundle);
    EXPECT_TRUE(compute::run_probe(*taking.device, {0}, *loaded.front().sample));
  }
};

TEST_F(gpu_transfer_test, goes_from_slot_to_slot_and_is_verified_there) {
  start_giver();
  start_taker();
  load_and_check(1);
  EXPECT_EQ(hub->connected, 1);
  EXPECT_TRUE(eventually([this] { return unpinned == 1; }));
  EXPECT_EQ(served->counters().bytes_sent.value(), 0) << "nothing went over ZeroMQ";
}

TEST_F(gpu_transfer_test, comes_over_zeromq_when_the_giver_does_not_link) {
  start_giver(false);
  start_taker();
  load_and_check(0);
  EXPECT_EQ(hub->connected, 0);
}

TEST_F(gpu_transfer_test, comes_over_zeromq_when_the_gpus_do_not_reach_each_other) {
  hub->refuses_takers = true;
  start_giver();
  start_taker();
  load_and_check(0);
  EXPECT_TRUE(eventually([this] { return unpinned == 1; })) << "the giver gives up, too";
}

TEST_F(gpu_transfer_test, comes_over_zeromq_when_it_was_damaged_on_the_link) {
  hub->damages = true;
  start_giver();
  start_taker();
  load_and_check(0);
  EXPECT_EQ(hub->connected, 1);
  EXPECT_EQ(tested->counters().digest_mismatches.value(), 1);
}

TEST_F(gpu_transfer_test, is_not_given_to_slots_of_another_type) {
  start_giver();
  const auto refused = giver->give({wanted, dtype::f32, {}}, {1}, layout, [this] { ++unpinned; });
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("slots here hold BF16"), std::string::npos) << refused.error().message;
  EXPECT_EQ(unpinned, 1) << "and is let go";
}

TEST_F(gpu_transfer_test, a_giver_that_stops_does_not_wait_for_a_taker_that_never_comes) {
  start_giver();
  ASSERT_TRUE(giver->give({wanted, dtype::bf16, {std::byte{99}}}, {1}, layout, [this] { ++unpinned; }));
  const auto second = giver->give({wanted, dtype::bf16, {std::byte{98}}}, {1}, layout, [this] { ++unpinned; });
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::overloaded);
  giver.reset();
  EXPECT_EQ(unpinned, 2);
}

}  // namespace
}  // namespace troupe::expert
