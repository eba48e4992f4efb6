// DeepSeek-V3 and R1: sigmoid scores; a correction bias and the best groups decide the choice, the bare scores weigh.
// Experts outside the kept groups can never be chosen. transformers masks them with 0, which lets them in when kept
// scores are negative; DeepSeek's own code masks with -infinity, and so do we.
#include "model/families/deepseek.hpp"

namespace troupe::model {

description describe_deepseek_v3(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  gating gate;
  gate.num_experts = read_num_experts(config, "n_routed_experts", 256);
  gate.top_k = read_top_k(config, "num_experts_per_tok", 8, gate.num_experts);
  gate.score = score_function::sigmoid;
  gate.renorm = config.flag("norm_topk_prob", true) ? renormalise::always : renormalise::never;
  gate.renorm_epsilon = 1e-20;
  gate.scale = config.number("routed_scaling_factor", 2.5);
  gate.groups = group_score::sum_of_two_largest;
  gate.correction_bias = "gate.e_score_correction_bias";  // of each layer; the prefix follows
  config.choice("scoring_func", "sigmoid", {"sigmoid"});
  config.choice("topk_method", "noaux_tc", {"noaux_tc"});
  auto num_groups = config.count("n_group", 8);
  read_groups(config, gate, num_groups, config.count("topk_group", 4));
  return describe_deepseek(config, tensors, problems, gate,
                           {.hidden = 7168, .width = 2048, .num_layers = 61, .num_shared = 1, .first_dense = 3});
}

}  // namespace troupe::model
