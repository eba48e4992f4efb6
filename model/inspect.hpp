// What `troupe model inspect` and `troupe model verify` tell about a checkpoint. Free functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "model/checkpoint.hpp"
#include "model/manifest.hpp"

namespace troupe::model {

struct layer_summary {
  layer_id id;
  std::uint32_t experts{};
  std::uint32_t top_k{};
  expert_shape shape;
  std::uint64_t bytes_per_expert{};  // as stored; the largest, should they differ
  std::uint32_t shared_width{};      // 0: no shared expert
};

struct checkpoint_summary {
  std::string name;
  std::string family;
  std::string fingerprint;
  std::uint32_t hidden{};
  dtype stored{dtype::bf16};
  std::vector<layer_summary> layers;
  std::uint64_t experts{};       // of all layers together
  std::uint64_t expert_bytes{};  // of all bundles, as stored
  std::uint64_t file_bytes{};    // of all shards
  std::size_t files{};           // shards
};

[[nodiscard]] checkpoint_summary summarise(const checkpoint& source);

struct verify_progress {
  std::uint64_t experts_done{};
  std::uint64_t experts_total{};
  std::uint64_t bytes_done{};
  std::uint64_t bytes_total{};
};

struct verify_report {
  digest_manifest digests;      // of every bundle that could be read
  std::vector<error> problems;  // in the order of the experts; empty: everything is as it should be
  bool had_manifest{};          // digests were compared with expert-digests.json
};

// Reads every gate, shared expert and bundle: digests, comparison with the manifest if there is one, finiteness. Shapes
// were checked when the checkpoint was opened. Takes as much memory as the largest bundle. `on_progress` is called
// after each expert; false stops: cancelled.
[[nodiscard]] result<verify_report> verify(const checkpoint& source,
                                           const std::function<bool(const verify_progress&)>& on_progress = {});

}  // namespace troupe::model
