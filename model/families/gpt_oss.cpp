// GPT-OSS: top-k on the logits, softmax over those k alone. All experts of a layer stand in one packed tensor, stored
// [in, out], with gate and up interleaved and a bias on both products. The limit 7 and the factor 1.702 of its
// activation are constants of the reference's code, whatever config.json says.
#include <fmt/format.h>

#include "model/families/family.hpp"

namespace troupe::model {

description describe_gpt_oss(config_reader& config, const tensor_index& tensors, problem_list& problems) {
  expert_shape shape{.hidden = config.count("hidden_size", 2880),
                     .width = config.count("intermediate_size", 2880),
                     .act = activation::clamped_glu,
                     .has_bias = true};
  gating gate;
  gate.num_experts = read_num_experts(config, "num_local_experts", 128);
  gate.top_k = read_top_k(config, "num_experts_per_tok", 4, gate.num_experts);
  gate.score = score_function::softmax_of_top_k;
  auto num_layers = read_num_layers(config, "num_hidden_layers", 36);
  expect_silu(config);

  model_builder model{tensors, problems, shape.hidden};
  for (std::uint32_t block = 0; block < num_layers && config.sizes_known(); ++block) {
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    gate.weight = prefix + ".router.weight";
    gate.bias = prefix + ".router.bias";
    auto packed = [&](tensor_role role, std::string_view name, bool transposed) {
      return expert_tensor{role, fmt::format("{}.experts.{}", prefix, name), "", true, transposed};
    };
    model.add_layer(
        {layer_id::of(block),
         gate,
         shape,
         {},
         {packed(tensor_role::gate_up, "gate_up_proj", true),
          packed(tensor_role::gate_up_bias, "gate_up_proj_bias", false), packed(tensor_role::down, "down_proj", true),
          packed(tensor_role::down_bias, "down_proj_bias", false)}});
  }
  return model.take();
}

}  // namespace troupe::model
