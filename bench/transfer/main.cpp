// bench_transfer [RUNS]: how long an expert of 12.6 MB takes from one expert node to another, beside a transfer of the
// same bytes by ZeroMQ alone. The two take turns within one run. Prints tables in Markdown, medians in milliseconds.
#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "bench/layer/random_layer.hpp"
#include "bench/transfer/bare.hpp"
#include "bench/transfer/giving_node.hpp"
#include "compute/device.hpp"
#include "expert_node/shell/device_memory.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/loader.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "expert_node/shell/peer_fetch.hpp"
#include "model/checkpoint.hpp"

namespace troupe::bench {
namespace {

using expert::peer_source;

constexpr expert::slot_content wanted{{layer_id::of(0), 0}, {1}};

template <class T>
T must(result<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*value);
}

double ms_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double, std::milli>{std::chrono::steady_clock::now() - begin}.count();
}

double median(std::vector<double> all) {
  std::ranges::sort(all);
  return all[all.size() / 2];
}

// A folder with a checkpoint of two experts and the keys that TCP needs; removed at the end.
class bench_folder {
 public:
  bench_folder() {
    auto pattern = (std::filesystem::temp_directory_path() / "troupe-transfer-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path = pattern;
    std::filesystem::create_directory(path / "model");
    must(write_random_layer(path / "model", {.hidden = 2048, .width = 1024, .experts = 2, .top_k = 1}, 1));
    must(wire::add_authorized(path / "authorized", {taker.public_key, wire::peer_role::expert, taker_name}));
  }
  ~bench_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  bench_folder(const bench_folder&) = delete;
  bench_folder& operator=(const bench_folder&) = delete;

  std::filesystem::path path;
  const wire::key_pair giver = must(wire::make_key_pair());
  const wire::key_pair taker = must(wire::make_key_pair());
};

// The taking side: what an expert node without checkpoint does for LoadExpert, without the node around it.
class taking_node {
 public:
  explicit taking_node(const bench_folder& keys, std::shared_ptr<const model::bundle_layout> layout)
      : keys_{keys}, layout_{std::move(layout)}, device_{must(compute::make_cpu_device({.threads = 1}))} {
    slot_bytes_ = device_->slot_bytes(layout_->shape);
    must(device_->reserve(1, slot_bytes_));
    memory_ = std::make_shared<expert::device_memory>(*device_);
    expert::loader_settings settings;
    settings.layers = std::make_shared<expert::layer_catalog>(nullptr);
    settings.memory = memory_;
    settings.slot_bytes = slot_bytes_;
    settings.fetching = fetching(true);
    settings.loaded = [this](expert::finished_load done) { finish(std::move(done)); };
    settings.failed = [this](slot_index, error reason) { finish(fail(std::move(reason))); };
    settings.unloaded = [](slot_index) {};
    loader_ = std::make_unique<expert::loader>(std::move(settings));
  }

  // The bytes alone.
  void fetch(const peer_source& from, bool is_sharing) {
    expert::peer_fetch transfer{is_sharing ? sharing_ : chunks_, wanted, layout_};
    must(transfer.from(from));
    if (transfer.bundle().bytes().size() != layout_->bytes()) throw std::runtime_error("bytes are missing");
  }

  // Until the expert could be served.
  void load(const peer_source& from, const sha256_digest& digest) {
    loader_->load({{0}, wanted, digest, {from}});
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [this] { return done_.has_value(); });
    auto loaded = must(std::move(*done_));
    done_.reset();
    must(compute::run_probe(*device_, {0}, *loaded.sample));
  }
  void unload() { memory_->unload({0}); }

 private:
  expert::peer_fetch_settings fetching(bool is_sharing) {
    expert::peer_fetch_settings settings;
    settings.context = context_;
    settings.identity = identity_;
    settings.is_sharing = is_sharing;
    settings.keys = [this](const peer_source& peer) -> std::optional<wire::curve_client> {
      if (peer.public_key.empty()) return std::nullopt;
      return wire::curve_client{peer.public_key, keys_.taker.public_key, keys_.taker.secret_key};
    };
    settings.cancelled = [] { return false; };
    return settings;
  }
  void finish(result<expert::finished_load> done) {
    {
      std::lock_guard lock{mutex_};
      done_ = std::move(done);
    }
    changed_.notify_one();
  }

  const bench_folder& keys_;
  const std::shared_ptr<const model::bundle_layout> layout_;
  std::unique_ptr<compute::device> device_;
  std::uint64_t slot_bytes_{};
  std::shared_ptr<expert::device_memory> memory_;
  std::shared_ptr<wire::context> context_ = must(wire::context::make());
  std::shared_ptr<expert::node_identity> identity_ =
      std::make_shared<expert::node_identity>(node_id{taker_name}, cluster_name, incarnation_number{1});
  expert::peer_links sharing_{fetching(true)};
  expert::peer_links chunks_{fetching(false)};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<result<expert::finished_load>> done_;  // guarded by mutex_
  std::unique_ptr<expert::loader> loader_;             // last: its thread uses what is above
};

void compare_roads(const giving_node& giver, const bench_folder& folder, const model::bundle_layout& layout,
                   const sha256_digest& digest, taking_node& taker, int runs) {
  fmt::print(
      "| address | ZeroMQ alone, ms | Troupe's transfer, ms | ratio | in chunks, ms | ratio | whole LoadExpert, ms |\n"
      "|---|---|---|---|---|---|---|\n");
  for (auto r : {road::ipc, road::tcp, road::tcp_curve}) {
    const bool is_curve = r == road::tcp_curve;
    const peer_source source{{giver_name}, giver.at(r).troupe, is_curve ? folder.giver.public_key : ""};
    bare_sink sink{giver.at(r).bare, is_curve ? std::optional{folder.giver.public_key} : std::nullopt};
    std::vector<double> bare, troupe, chunks, load;
    for (int i = -1; i < runs; ++i) {
      const double b = ms_of([&] { sink.fetch(layout.bytes()); });
      const double t = ms_of([&] { taker.fetch(source, true); });
      const double c = ms_of([&] { taker.fetch(source, false); });
      const double l = ms_of([&] { taker.load(source, digest); });
      taker.unload();
      if (i < 0) continue;  // the first time connects and fills caches
      bare.push_back(b);
      troupe.push_back(t);
      chunks.push_back(c);
      load.push_back(l);
    }
    fmt::print("| {} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} | {:.2f} |\n",
               road_names[static_cast<std::size_t>(r)], median(bare), median(troupe), median(troupe) / median(bare),
               median(chunks), median(chunks) / median(bare), median(load));
  }
}

// What LoadExpert does besides, one by one, and what the giver does before the first chunk.
void show_parts(const model::bundle_layout& layout, std::span<const std::byte> bytes, int runs) {
  auto device = must(compute::make_cpu_device({.threads = 1}));
  must(device->reserve(1, device->slot_bytes(layout.shape)));
  std::optional<compute::probe_sample> sample;
  std::vector<std::byte> target(bytes.size());
  const std::vector<std::pair<const char*, std::function<void()>>> parts{
      {"SHA-256", [&] { static_cast<void>(model::digest_of(bytes)); }},
      {"finite check", [&] { must(model::check_finite(layout, bytes)); }},
      {"making the probe", [&] { sample = must(compute::make_probe(layout, bytes, dtype::bf16)); }},
      {"packing into the slot", [&] { must(device->load({0}, layout, bytes)); }},
      {"probe through the slot", [&] { must(compute::run_probe(*device, {0}, *sample)); }},
      {"(giver) unpacking from the slot", [&] { must(device->export_bundle({0}, layout, target)); }}};
  std::vector<std::vector<double>> times(parts.size());
  for (int i = 0; i < runs; ++i) {
    for (std::size_t p = 0; p < parts.size(); ++p) times[p].push_back(ms_of(parts[p].second));
    device->unload({0});
  }
  fmt::print("\n| part | ms |\n|---|---|\n");
  for (std::size_t p = 0; p < parts.size(); ++p) fmt::print("| {} | {:.2f} |\n", parts[p].first, median(times[p]));
}

void run(int runs) {
  const bench_folder folder;
  const giving_node giver{folder.path, folder.giver};  // forks, so before any thread
  auto checkpoint = std::make_shared<model::checkpoint>(must(model::checkpoint::open(folder.path / "model")));
  std::shared_ptr<const model::bundle_layout> layout{checkpoint, checkpoint->model().find(wanted.expert)};
  std::vector<std::byte> bytes(layout->bytes());
  must(checkpoint->read_bundle(*layout, bytes));
  taking_node taker{folder, layout};
  fmt::print("{} bytes in chunks of {}, medians of {}\n\n", bytes.size(), limits::peer_chunk_bytes, runs);
  compare_roads(giver, folder, *layout, model::digest_of(bytes), taker, runs);
  show_parts(*layout, bytes, runs);
}

}  // namespace
}  // namespace troupe::bench

int main(int argc, char** argv) {
  try {
    troupe::bench::run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 51);
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
