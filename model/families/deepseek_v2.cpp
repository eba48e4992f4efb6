// DeepSeek-V2: softmax over all experts; with `group_limited_greedy` only the groups with the best expert are kept.
// The weights are scaled and never renormalised: transformers does not read norm_topk_prob here.
#include "model/families/deepseek.hpp"

namespace troupe::model {

description describe_deepseek_v2(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  gating gate;
  gate.num_experts = read_num_experts(config, "n_routed_experts", 64);
  gate.top_k = read_top_k(config, "num_experts_per_tok", {}, gate.num_experts);
  gate.scale = config.number("routed_scaling_factor", 1.0);
  config.choice("scoring_func", "softmax", {"softmax"});
  if (config.flag("mlp_bias", false)) config.refuse("mlp_bias", "false", "true");
  if (config.choice("topk_method", "greedy", {"greedy", "group_limited_greedy"}) == "group_limited_greedy") {
    gate.groups = group_score::max;
    auto num_groups = config.count("n_group");
    read_groups(config, gate, num_groups, config.count("topk_group"));
  }
  return describe_deepseek(config, tensors, problems, gate,
                           {.hidden = 4096, .width = 1407, .num_layers = 32, .num_shared = 2, .first_dense = 0});
}

}  // namespace troupe::model
