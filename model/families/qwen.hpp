// What Qwen2-MoE and Qwen3-MoE have in common: which blocks have experts, a gate with optional renormalisation, and
// most of the trunk.
#pragma once

#include <cstdint>

#include "model/families/family.hpp"
#include "model/families/trunk_reader.hpp"

namespace troupe::model {

struct qwen_defaults {
  std::uint32_t width{};
  std::uint32_t num_experts{};
  std::uint32_t top_k{};
  std::uint32_t shared_width{};  // 0: the family has no shared expert
};

// A block is a MoE layer unless `mlp_only_layers` lists it or its number plus one is no multiple of
// `decoder_sparse_step`.
[[nodiscard]] description describe_qwen(config_reader& config, const stored_tensors& tensors, problem_list& problems,
                                        const qwen_defaults& defaults);

// Reads what both trunks share: sizes, window, and the dense MLPs of blocks without experts. The caller adds biases and
// norms, then calls name_tensors. transformers 4.57 gives every block the window, whatever max_window_layers says
// (only its flash attention, which no CPU has, looks at that key).
[[nodiscard]] trunk_description read_qwen_trunk(config_reader& config, const trunk_defaults& defaults,
                                                std::uint32_t dense_width);

}  // namespace troupe::model
