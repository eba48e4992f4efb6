// What DeepSeek-V2 and V3 have in common: groups of experts, dense first blocks, and a shared MLP that is simply added.
#pragma once

#include <cstdint>
#include <optional>

#include "model/families/family.hpp"

namespace troupe::model {

struct deepseek_defaults {
  std::uint32_t hidden{};
  std::uint32_t width{};
  std::uint32_t num_layers{};
  std::uint32_t num_shared{};
  std::uint32_t first_dense{};
};

// Fills num_groups and top_k_groups of the gate and refuses groups that cannot hold top_k experts.
void read_groups(config_reader& config, gating& gate, std::uint32_t num_groups, std::uint32_t top_k_groups);

// `gate` without its tensor names.
[[nodiscard]] description describe_deepseek(config_reader& config, const stored_tensors& tensors,
                                            problem_list& problems, gating gate, const deepseek_defaults& defaults);

}  // namespace troupe::model
