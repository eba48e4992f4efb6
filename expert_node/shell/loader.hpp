// The thread that brings bundles into slots: reads a bundle from the checkpoint or from a peer, verifies its digest,
// refuses weights that are not finite, packs it into the slot. The host probes it afterwards, on the device's thread.
//
// One bundle is in memory at a time. Nothing that failed a check is ever left in a slot (faults.md C4, C5).
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "common/error.hpp"
#include "common/http/metrics.hpp"
#include "compute/device.hpp"
#include "expert_node/shell/device_memory.hpp"
#include "expert_node/shell/gpu_transfer.hpp"
#include "expert_node/shell/host_ports.hpp"
#include "expert_node/shell/peer_fetch.hpp"
#include "model/manifest.hpp"

namespace troupe::expert {

class layer_catalog;

// A bundle that has been verified and packed.
struct finished_load {
  slot_index slot;
  std::shared_ptr<const model::bundle_layout> layout;
  loaded_facts facts;
  std::shared_ptr<const compute::probe_sample> sample;  // none: the weights are not finite, and allowed to be
};

struct loader_settings {
  std::shared_ptr<layer_catalog> layers;
  std::shared_ptr<device_memory> memory;
  dtype type{dtype::bf16};     // of the device
  std::uint64_t slot_bytes{};  // what fits into one slot
  bool allow_nonfinite{};      // serve weights with NaN or infinity
  // Of the checkpoint in `layers`: what its bundles must be where a job does not say it. None: it has no manifest.
  std::optional<model::digest_manifest> manifest{};
  peer_fetch_settings fetching;  // `cancelled` is set by the loader
  link_opener open_link;         // empty: from peers over ZeroMQ only
  // Called on the loader's thread; must not block.
  std::function<void(finished_load)> loaded;
  std::function<void(slot_index, error)> failed;
  std::function<void(slot_index)> unloaded;
};

// From a small expert in the page cache to GiB from a slow disk.
inline constexpr std::array<double, 12> load_seconds_bounds{0.001, 0.005, 0.01, 0.05, 0.1, 0.25,
                                                            0.5,   1,     2.5,  10,   30,  120};

// One writer, the loader's thread; any reader.
struct loader_counters {
  http::counter loads_from_checkpoint;
  http::counter loads_from_peer;
  http::counter loads_over_links;  // of those from peers: from GPU to GPU
  http::counter loads_failed;
  http::counter digest_mismatches;
  http::counter bytes_loaded;
  // Of those that succeeded, by where the bundle came from.
  http::histogram seconds_from_checkpoint{load_seconds_bounds};
  http::histogram seconds_from_peer{load_seconds_bounds};
  http::histogram seconds_over_links{load_seconds_bounds};
};

class loader {
 public:
  explicit loader(loader_settings settings);
  // As stop().
  ~loader();
  loader(const loader&) = delete;
  loader& operator=(const loader&) = delete;

  // Any thread. Done in the order of the calls.
  void load(load_job job);
  void unload(slot_index slot);
  // Breaks off a transfer in progress and ends the thread; jobs that wait are forgotten.
  void stop();

  [[nodiscard]] const loader_counters& counters() const;

 private:
  class impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::expert
