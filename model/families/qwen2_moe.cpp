// Qwen1.5-MoE and Qwen2-MoE: softmax over all experts, and one shared expert behind a sigmoid of its own.
#include "model/families/qwen.hpp"

namespace troupe::model {

description describe_qwen2_moe(config_reader& config, const tensor_index& tensors, problem_list& problems) {
  return describe_qwen(config, tensors, problems, {.width = 1408, .num_experts = 60, .top_k = 4, .shared_width = 5632});
}

}  // namespace troupe::model
