// GPT-OSS: top-k on the logits, softmax over those k alone. All experts of a layer stand in one packed tensor, stored
// [in, out], with gate and up interleaved and a bias on both products. The limit 7 and the factor 1.702 of its
// activation are constants of the reference's code, whatever config.json says. Published checkpoints are mxfp4: blocks
// and scales of each matrix, stored [out, in].
#include <fmt/format.h>

#include "model/families/family.hpp"

namespace troupe::model {
namespace {

std::vector<expert_tensor> packed_experts(const std::string& prefix, const quantisation& quantised) {
  using enum tensor_role;
  const auto packed = [&](tensor_role role, std::string_view name, bool transposed) {
    return expert_tensor{role, fmt::format("{}{}", prefix, name), "", true, transposed};
  };
  if (quantised.method == quant_method::mxfp4) {
    return {packed(gate_up, "gate_up_proj_blocks", false),    packed(gate_up_scale, "gate_up_proj_scales", false),
            packed(gate_up_bias, "gate_up_proj_bias", false), packed(down, "down_proj_blocks", false),
            packed(down_scale, "down_proj_scales", false),    packed(down_bias, "down_proj_bias", false)};
  }
  return {packed(gate_up, "gate_up_proj", true), packed(gate_up_bias, "gate_up_proj_bias", false),
          packed(down, "down_proj", true), packed(down_bias, "down_proj_bias", false)};
}

// A scale belongs to 32 inputs, and half a block is nowhere defined.
void check_blocks(config_reader& config, const expert_shape& shape) {
  const auto whole = [&](std::string_view key, std::uint32_t size) {
    if (size % mxfp4_block.inputs == 0) return;
    config.refuse(key, fmt::format("a multiple of {} for mxfp4", mxfp4_block.inputs), fmt::format("{}", size));
  };
  if (!config.sizes_known()) return;
  whole("hidden_size", shape.hidden);
  whole("intermediate_size", shape.width);
}

}  // namespace

description describe_gpt_oss(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
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
  if (tensors.quantised.method == quant_method::mxfp4) check_blocks(config, shape);

  model_builder model{tensors, problems, shape.hidden};
  for (std::uint32_t block = 0; block < num_layers && config.sizes_known(); ++block) {
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    gate.weight = prefix + ".router.weight";
    gate.bias = prefix + ".router.bias";
    model.add_layer({layer_id::of(block), gate, shape, {}, packed_experts(prefix + ".experts.", tensors.quantised)});
  }
  return model.take();
}

}  // namespace troupe::model
