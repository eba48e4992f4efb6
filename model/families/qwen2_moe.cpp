// Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, and one shared expert behind a sigmoid of its own.
#include "model/families/qwen.hpp"

namespace troupe::model {

description describe_qwen2_moe(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  return describe_qwen(config, tensors, problems, {.width = 1408, .num_experts = 60, .top_k = 4, .shared_width = 5632});
}

trunk_description describe_qwen2_moe_trunk(config_reader& config, const stored_tensors& tensors,
                                           problem_list& problems) {
  auto trunk = read_qwen_trunk(config,
                               {.hidden = 2048,
                                .num_layers = 24,
                                .heads = 16,
                                .kv_heads = 16,
                                .vocabulary = 151'936,
                                .context_tokens = 32'768,
                                .norm_epsilon = 1e-6},
                               5632);
  trunk.qkv_bias = config.flag("qkv_bias", true);
  if (config.sizes_known()) name_tensors(trunk, tensors, problems);
  return trunk;
}

}  // namespace troupe::model
