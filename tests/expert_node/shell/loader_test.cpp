// The loader with a real checkpoint on disk and a device that only keeps what it is given; peers over real ipc sockets.
#include "expert_node/shell/loader.hpp"

#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <fstream>
#include <mutex>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "compute/device.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "expert_node/shell/peer_server.hpp"
#include "model/checkpoint.hpp"
#include "tests/common/wire_fixture.hpp"

namespace troupe::expert {
namespace {

using wire::eventually;
using wire::must;

// Keeps whole bundles by slot.
class storing_device : public compute::device {
 public:
  compute::device_info info() const override { return {"fake", "stores", dtype::f32, 1, {}, 0}; }
  std::size_t slot_bytes(const model::expert_shape& shape) const override {
    return std::size_t{4} * 3 * shape.hidden * shape.width;
  }
  result<void> reserve(std::uint32_t, std::size_t) override { return {}; }
  result<void> load(slot_index slot, const model::bundle_layout&, std::span<const std::byte> bundle) override {
    slots[slot.value].assign(bundle.begin(), bundle.end());
    return {};
  }
  result<void> export_bundle(slot_index, const model::bundle_layout&, std::span<std::byte>) const override {
    return fail(errc::invalid_request, "this device only takes");
  }
  void unload(slot_index slot) override { slots.erase(slot.value); }
  result<void> run(const compute::batch&, std::span<compute::group_report>) override {
    return fail(errc::internal, "this device does not compute");
  }
  std::map<std::uint32_t, std::vector<std::byte>> slots;
};

// Parameter: do nodes of one machine share memory, or send chunks?
class loader_test : public ::testing::TestWithParam<bool> {
 protected:
  loader_test() {
    std::filesystem::copy(std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden/dev/mixtral",
                          folder.path() / "model", std::filesystem::copy_options::recursive);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder.path() / "model")) {
      if (entry.path().filename() == "config.json") model_folder = entry.path().parent_path();
    }
  }

  std::shared_ptr<const model::checkpoint> open_checkpoint() {
    return std::make_shared<model::checkpoint>(must(model::checkpoint::open(model_folder)));
  }

  void start(std::shared_ptr<const model::checkpoint> checkpoint, bool allow_nonfinite = false,
             std::uint64_t slot_bytes = 1 << 20, std::optional<model::digest_manifest> manifest = std::nullopt) {
    loader_settings settings;
    settings.manifest = std::move(manifest);
    settings.layers = layers = std::make_shared<layer_catalog>(std::move(checkpoint));
    settings.memory = memory;
    settings.type = dtype::f32;
    settings.slot_bytes = slot_bytes;
    settings.allow_nonfinite = allow_nonfinite;
    settings.fetching.context = context;
    settings.fetching.identity = identity;
    settings.fetching.is_sharing = GetParam();
    settings.fetching.chunks = {.chunk_bytes = 1000, .outstanding_max = 3, .timeout = std::chrono::milliseconds{300}};
    settings.loaded = [this](finished_load done) {
      std::lock_guard lock{mutex};
      loaded.push_back(std::move(done));
    };
    settings.failed = [this](slot_index, error reason) {
      std::lock_guard lock{mutex};
      failed.push_back(std::move(reason));
    };
    settings.unloaded = [this](slot_index slot) {
      std::lock_guard lock{mutex};
      unloaded.push_back(slot);
    };
    tested = std::make_unique<loader>(std::move(settings));
  }

  // Another node that serves what is in its checkpoint.
  std::unique_ptr<peer_server> start_peer(
      const std::string& name, std::shared_ptr<const model::checkpoint> held,
      std::function<result<void>()> allowed = [] { return result<void>{}; }) {
    peer_server_settings settings;
    settings.context = context;
    settings.address = folder.ipc(name + ".peer.ipc");
    settings.identity = std::make_shared<node_identity>(node_id{name}, "cluster-1", incarnation_number{1});
    settings.open = [held, allowed](const slot_content& content, const auto& make_room) -> result<open_bundle> {
      if (auto fine = allowed(); !fine) return fail(fine.error());
      const auto* layout = held->model().find(content.expert);
      if (layout == nullptr) return fail(errc::unknown_expert, "not here");
      open_bundle bundle{{held, layout}, must(make_room(layout->bytes()))};
      must(held->read_bundle(*layout, bundle.bytes.bytes()));
      return bundle;
    };
    return must(peer_server::start(std::move(settings)));
  }

  peer_source source(const std::string& name) { return {{name}, folder.ipc(name + ".peer.ipc"), ""}; }

  load_job job(std::optional<sha256_digest> expected = std::nullopt, std::vector<peer_source> peers = {}) {
    return {{0}, {wanted, {1}}, expected, std::move(peers)};
  }

  bool ended() {
    return eventually([this] {
      std::lock_guard lock{mutex};
      return !loaded.empty() || !failed.empty();
    });
  }

  error failure() {
    EXPECT_TRUE(ended());
    std::lock_guard lock{mutex};
    EXPECT_TRUE(loaded.empty());
    return failed.empty() ? error{} : failed.front();
  }

  finished_load success() {
    EXPECT_TRUE(ended());
    std::lock_guard lock{mutex};
    EXPECT_TRUE(failed.empty()) << failed.front().message;
    if (loaded.empty()) return {};
    return loaded.front();
  }

  std::vector<std::byte> true_bytes() {
    auto intact = open_checkpoint();
    std::vector<std::byte> bytes(intact->model().find(wanted)->bytes());
    must(intact->read_bundle(*intact->model().find(wanted), bytes));
    return bytes;
  }

  // Overwrites bytes of the wanted expert's first tensor on disk.
  void damage(const model::checkpoint& checkpoint, std::span<const std::byte> with) {
    const auto& tensor = checkpoint.model().find(wanted)->tensors.front();
    std::fstream file{checkpoint.files().at(tensor.file), std::ios::in | std::ios::out | std::ios::binary};
    file.seekp(static_cast<std::streamoff>(tensor.offset + 8));
    file.write(static_cast<const char*>(static_cast<const void*>(with.data())),
               static_cast<std::streamsize>(with.size()));
    ASSERT_TRUE(file.good());
  }

  static constexpr expert_id wanted{layer_id::of(1), 2};
  wire::temporary_folder folder;
  std::filesystem::path model_folder;
  std::shared_ptr<wire::context> context = must(wire::context::make());
  std::shared_ptr<node_identity> identity =
      std::make_shared<node_identity>(node_id{"expert-0"}, "cluster-1", incarnation_number{77});
  storing_device device;
  std::shared_ptr<device_memory> memory = std::make_shared<device_memory>(device);
  std::shared_ptr<layer_catalog> layers;
  std::mutex mutex;
  std::vector<finished_load> loaded;  // guarded by mutex, as the next two
  std::vector<error> failed;
  std::vector<slot_index> unloaded;
  std::unique_ptr<loader> tested;
};

TEST_P(loader_test, reads_a_bundle_and_reports_its_digest) {
  start(open_checkpoint());
  tested->load(job());
  auto done = success();
  EXPECT_EQ(device.slots.at(0), true_bytes());
  EXPECT_EQ(done.facts.digest, model::digest_of(true_bytes()));
  EXPECT_EQ(done.facts.bundle_bytes, true_bytes().size());
  EXPECT_EQ(done.facts.resident_bytes, device.slot_bytes(done.layout->shape));
  EXPECT_EQ(done.layout->id, wanted);
  ASSERT_NE(done.sample, nullptr);
  EXPECT_EQ(done.sample->id, wanted);
  tested->unload({0});
  EXPECT_TRUE(eventually([this] {
    std::lock_guard lock{mutex};
    return unloaded.size() == 1;
  }));
  EXPECT_TRUE(device.slots.empty());
}

TEST_P(loader_test, c4_bit_rot_is_never_served) {
  auto expected = model::digest_of(true_bytes());
  auto checkpoint = open_checkpoint();
  damage(*checkpoint, std::as_bytes(std::span{"rot", 1}));
  start(checkpoint);
  tested->load(job(expected));
  auto reason = failure();
  EXPECT_EQ(reason.code, errc::corrupt);
  EXPECT_NE(reason.message.find(model::to_hex(expected)), std::string::npos) << reason.message;
  EXPECT_TRUE(device.slots.empty());
  EXPECT_EQ(tested->counters().digest_mismatches.value(), 1);
}

TEST_P(loader_test, c4_a_rotten_file_is_replaced_by_a_peers_copy) {
  auto bytes = true_bytes();
  auto intact_folder = folder.path() / "intact";
  std::filesystem::copy(model_folder, intact_folder, std::filesystem::copy_options::recursive);
  auto intact = std::make_shared<model::checkpoint>(must(model::checkpoint::open(intact_folder)));
  auto checkpoint = open_checkpoint();
  damage(*checkpoint, std::as_bytes(std::span{"rot", 1}));
  auto rotten_peer = start_peer("expert-1", checkpoint);
  auto intact_peer = start_peer("expert-2", intact);
  start(checkpoint);
  tested->load(job(model::digest_of(bytes), {source("expert-1"), source("expert-2")}));
  success();
  EXPECT_EQ(device.slots.at(0), bytes);
  EXPECT_EQ(tested->counters().digest_mismatches.value(), 2) << "its own file, then the first peer";
  EXPECT_EQ(tested->counters().loads_from_peer.value(), 1);
  EXPECT_EQ(tested->counters().seconds_from_peer.cumulative().back(), 1U);
  EXPECT_GT(tested->counters().seconds_from_peer.sum(), 0);
  EXPECT_EQ(tested->counters().seconds_from_checkpoint.cumulative().back(), 0U);
}

TEST_P(loader_test, c4_a_first_replica_is_compared_with_the_manifest) {
  model::digest_manifest manifest;
  manifest.digests[wanted] = model::digest_of(true_bytes());
  auto checkpoint = open_checkpoint();
  start(checkpoint, false, 1 << 20, manifest);
  tested->load(job());
  EXPECT_EQ(success().facts.digest, manifest.digests[wanted]);
  loaded.clear();
  damage(*checkpoint, std::as_bytes(std::span{"rot", 1}));
  start(checkpoint, false, 1 << 20, manifest);
  tested->load(job());
  auto reason = failure();
  EXPECT_EQ(reason.code, errc::corrupt);
  EXPECT_NE(reason.message.find(model::to_hex(manifest.digests[wanted])), std::string::npos) << reason.message;
  EXPECT_TRUE(device.slots.empty());
}

TEST_P(loader_test, c5_weights_that_are_not_finite_are_refused_unless_allowed) {
  auto checkpoint = open_checkpoint();
  const std::vector<std::byte> not_a_number(4, std::byte{0xff});  // NaN in f32, f16 and bf16
  damage(*checkpoint, not_a_number);
  start(checkpoint);
  tested->load(job());
  EXPECT_EQ(failure().code, errc::invalid_request);
  EXPECT_TRUE(device.slots.empty());
  failed.clear();
  start(checkpoint, true);
  tested->load(job());
  EXPECT_EQ(success().sample, nullptr) << "nothing to compare with";
}

TEST_P(loader_test, a_node_without_checkpoint_learns_everything_from_a_peer) {
  auto peer = start_peer("expert-1", open_checkpoint());
  start(nullptr);
  EXPECT_EQ(layers->hidden(wanted.layer), std::nullopt);
  tested->load(job(model::digest_of(true_bytes()), {source("expert-1")}));
  auto done = success();
  EXPECT_EQ(device.slots.at(0), true_bytes());
  auto checkpoint = open_checkpoint();
  const auto& layout = *checkpoint->model().find(wanted);
  EXPECT_EQ(done.layout->shape, layout.shape);
  ASSERT_EQ(done.layout->tensors.size(), layout.tensors.size());
  for (std::size_t index = 0; index < layout.tensors.size(); ++index) {
    EXPECT_EQ(done.layout->tensors[index].role, layout.tensors[index].role);
    EXPECT_EQ(done.layout->tensors[index].shape, layout.tensors[index].shape);
  }
  EXPECT_EQ(layers->hidden(wanted.layer), layout.shape.hidden);
}

TEST_P(loader_test, quantised_bundles_come_with_their_scales) {
  for (const auto* name : {"deepseek_v3_fp8", "gpt_oss_mxfp4"}) {
    model_folder = std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden/quantised" / name;
    auto peer = start_peer("expert-1", open_checkpoint());
    start(nullptr);
    tested->load(job(model::digest_of(true_bytes()), {source("expert-1")}));
    auto done = success();
    EXPECT_EQ(device.slots.at(0), true_bytes());
    ASSERT_NE(done.sample, nullptr);
    auto checkpoint = open_checkpoint();
    EXPECT_EQ(done.layout->block, checkpoint->model().find(wanted)->block);
    loaded.clear();
  }
}

TEST_P(loader_test, the_next_peer_is_asked_when_one_does_not_have_it_or_is_not_there) {
  auto busy = start_peer("expert-1", open_checkpoint(), [] { return fail(errc::overloaded, "come back"); });
  auto peer = start_peer("expert-2", open_checkpoint());
  start(nullptr);
  tested->load(job(std::nullopt, {source("expert-1"), source("expert-9"), source("expert-2")}));
  success();
  EXPECT_EQ(device.slots.at(0), true_bytes());
}

TEST_P(loader_test, a_peer_that_was_started_again_is_greeted_again) {
  start(nullptr);
  for (int times = 1; times <= 3; ++times) {
    // The connection of the last bundle is still open, but this peer knows nothing of it.
    auto peer = start_peer("expert-1", open_checkpoint());
    tested->load(job(model::digest_of(true_bytes()), {source("expert-1")}));
    EXPECT_TRUE(eventually([&] {
      std::lock_guard lock{mutex};
      return loaded.size() + failed.size() == static_cast<std::size_t>(times);
    }));
  }
  EXPECT_EQ(loaded.size(), 3U);
  EXPECT_EQ(tested->counters().loads_from_peer.value(), 3.0);
}

TEST_P(loader_test, a_peer_of_another_cluster_gives_nothing) {
  auto peer = start_peer("expert-1", open_checkpoint());
  identity->set_cluster_id("cluster-2");
  start(nullptr);
  tested->load(job(std::nullopt, {source("expert-1")}));
  auto reason = failure();
  EXPECT_EQ(reason.code, errc::wrong_cluster);
  EXPECT_NE(reason.message.find("expert-1"), std::string::npos);
}

TEST_P(loader_test, a_node_without_any_source_says_what_to_do) {
  start(nullptr);
  tested->load(job());
  EXPECT_NE(failure().message.find("--model"), std::string::npos);
}

TEST_P(loader_test, a_bundle_that_does_not_fit_its_slot_is_refused_with_both_sizes) {
  start(open_checkpoint(), false, 16);
  tested->load(job());
  auto reason = failure();
  EXPECT_EQ(reason.code, errc::out_of_memory);
  EXPECT_NE(reason.message.find(" 16;"), std::string::npos) << reason.message;
}

TEST_P(loader_test, stopping_breaks_off_a_transfer_in_progress) {
  start(nullptr);
  tested->load(job(std::nullopt, {source("nobody")}));
  tested->stop();
  EXPECT_TRUE(loaded.empty());
}

TEST_P(loader_test, nothing_is_left_in_shared_memory) {
  auto peer = start_peer("expert-1", open_checkpoint());
  start(nullptr);
  tested->load(job(std::nullopt, {source("expert-1")}));
  success();
  const auto ours = fmt::format("troupe-cluster-1-{}-", ::getpid());
  EXPECT_TRUE(eventually([&] {
    return std::ranges::none_of(std::filesystem::directory_iterator("/dev/shm"),
                                [&](const auto& entry) { return entry.path().filename().string().starts_with(ours); });
  }));
}

INSTANTIATE_TEST_SUITE_P(roads, loader_test, ::testing::Bool(),
                         [](const auto& tested) { return tested.param ? "shared" : "chunks"; });

}  // namespace
}  // namespace troupe::expert
