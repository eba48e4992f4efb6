// Qwen3-MoE: as Qwen2-MoE without a shared expert. Published checkpoints renormalise; the config class does not.
#include "model/families/qwen.hpp"

namespace troupe::model {

description describe_qwen3_moe(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  return describe_qwen(config, tensors, problems, {.width = 768, .num_experts = 128, .top_k = 8});
}

trunk_description describe_qwen3_moe_trunk(config_reader& config, const stored_tensors& tensors,
                                           problem_list& problems) {
  auto trunk = read_qwen_trunk(config,
                               {.hidden = 2048,
                                .num_layers = 24,
                                .heads = 32,
                                .kv_heads = 4,
                                .vocabulary = 151'936,
                                .context_tokens = 32'768,
                                .norm_epsilon = 1e-6,
                                .own_head_dim = true},
                               6144);
  trunk.norm = head_norm::per_head;
  trunk.qkv_bias = trunk.output_bias = config.flag("attention_bias", false);
  if (config.sizes_known()) name_tensors(trunk, tensors, problems);
  return trunk;
}

}  // namespace troupe::model
