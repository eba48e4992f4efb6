// What Qwen2-MoE and Qwen3-MoE have in common: which blocks have experts, and a gate with optional renormalisation.
#pragma once

#include <cstdint>

#include "model/families/family.hpp"

namespace troupe::model {

struct qwen_defaults {
  std::uint32_t width{};
  std::uint32_t num_experts{};
  std::uint32_t top_k{};
  std::uint32_t shared_width{};  // 0: the family has no shared expert
};

// A block is a MoE layer unless `mlp_only_layers` lists it or its number plus one is no multiple of
// `decoder_sparse_step`.
[[nodiscard]] description describe_qwen(config_reader& config, const tensor_index& tensors, problem_list& problems,
                                        const qwen_defaults& defaults);

}  // namespace troupe::model
