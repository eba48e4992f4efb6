// Qwen3-MoE: as Qwen2-MoE without a shared expert. Published checkpoints renormalise; the config class does not.
#include "model/families/qwen.hpp"

namespace troupe::model {

description describe_qwen3_moe(config_reader& config, const tensor_index& tensors, problem_list& problems) {
  return describe_qwen(config, tensors, problems, {.width = 768, .num_experts = 128, .top_k = 8});
}

}  // namespace troupe::model
