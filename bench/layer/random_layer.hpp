// A checkpoint of one MoE layer with random weights, for measurements: Qwen3-MoE's form, bf16. Writes files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "common/error.hpp"

namespace troupe::bench {

struct layer_spec {
  std::uint32_t hidden{2048};
  std::uint32_t width{1024};
  std::uint32_t experts{64};
  std::uint32_t top_k{8};
};

// config.json and model.safetensors in `folder`, which exists. Weights are normal / sqrt(in), so that rows of order one
// give rows of order one. The same seed gives the same bytes.
[[nodiscard]] result<void> write_random_layer(const std::filesystem::path& folder, const layer_spec& spec,
                                              std::uint64_t seed);

// Rows [count, hidden] of order one as bf16 bits.
[[nodiscard]] std::vector<std::uint16_t> random_rows(std::uint32_t count, std::uint32_t hidden, std::uint64_t seed);

}  // namespace troupe::bench
