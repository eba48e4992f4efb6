// A family of models: how its config.json, its tensors, its gate and its trunk are to be read. One small file each;
// families.cpp holds the table. Defaults of missing keys are those of the config classes of transformers 4.57.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/config_reader.hpp"
#include "model/families/model_builder.hpp"
#include "model/trunk_description.hpp"

namespace troupe::model {

// Fills the description; refuses through the config reader. Called only with a config.json whose `model_type` matches.
using describe_function = description (*)(config_reader& config, const stored_tensors& tensors, problem_list& problems);

// The same for what is not a routed expert; families that have none are only served layer by layer.
using describe_trunk_function = trunk_description (*)(config_reader& config, const stored_tensors& tensors,
                                                      problem_list& problems);

description describe_mixtral(config_reader&, const stored_tensors&, problem_list&);
description describe_qwen2_moe(config_reader&, const stored_tensors&, problem_list&);
description describe_qwen3_moe(config_reader&, const stored_tensors&, problem_list&);
description describe_olmoe(config_reader&, const stored_tensors&, problem_list&);
description describe_deepseek_v2(config_reader&, const stored_tensors&, problem_list&);
description describe_deepseek_v3(config_reader&, const stored_tensors&, problem_list&);
description describe_gpt_oss(config_reader&, const stored_tensors&, problem_list&);
description describe_switch_transformers(config_reader&, const stored_tensors&, problem_list&);
description describe_vmoe(config_reader&, const stored_tensors&, problem_list&);

trunk_description describe_mixtral_trunk(config_reader&, const stored_tensors&, problem_list&);
trunk_description describe_qwen2_moe_trunk(config_reader&, const stored_tensors&, problem_list&);
trunk_description describe_qwen3_moe_trunk(config_reader&, const stored_tensors&, problem_list&);
trunk_description describe_olmoe_trunk(config_reader&, const stored_tensors&, problem_list&);

// -- what several families share ------------------------------------------------------------------------------------

[[nodiscard]] std::uint32_t read_num_layers(config_reader& config, std::string_view key, std::uint32_t fallback);
[[nodiscard]] std::uint32_t read_num_experts(config_reader& config, std::string_view key,
                                             std::optional<std::uint32_t> fallback);
// At most the number of experts.
[[nodiscard]] std::uint32_t read_top_k(config_reader& config, std::string_view key,
                                       std::optional<std::uint32_t> fallback, std::uint32_t num_experts);
// Refuses any hidden_act but SiLU.
void expect_silu(config_reader& config);

// PREFIX.experts.E.{gate_proj,up_proj,down_proj}.weight, or other names for the three.
[[nodiscard]] std::vector<expert_tensor> gated_experts(const std::string& prefix,
                                                       std::array<std::string_view, 3> names = {"gate_proj", "up_proj",
                                                                                                "down_proj"});
// PREFIX.{gate_proj,up_proj,down_proj}.weight
[[nodiscard]] shared_expert gated_shared_expert(const std::string& prefix, std::uint32_t width);

}  // namespace troupe::model
