// OLMoE: softmax over all experts, top-k, renormalised only if the config says so. Every block has experts.
#include <fmt/format.h>

#include "model/families/family.hpp"
#include "model/families/trunk_reader.hpp"

namespace troupe::model {

description describe_olmoe(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  expert_shape shape{.hidden = config.count("hidden_size", 2048), .width = config.count("intermediate_size", 2048)};
  gating gate;
  gate.num_experts = read_num_experts(config, "num_experts", 64);
  gate.top_k = read_top_k(config, "num_experts_per_tok", 8, gate.num_experts);
  gate.renorm = config.flag("norm_topk_prob", false) ? renormalise::always : renormalise::never;
  auto num_layers = read_num_layers(config, "num_hidden_layers", 16);
  expect_silu(config);

  model_builder model{tensors, problems, shape.hidden};
  for (std::uint32_t block = 0; block < num_layers && config.sizes_known(); ++block) {
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    gate.weight = prefix + ".gate.weight";
    model.add_layer({layer_id::of(block), gate, shape, {}, gated_experts(prefix)});
  }
  return model.take();
}

// Queries and keys are normalised over all heads together, before clip_qkv.
trunk_description describe_olmoe_trunk(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  auto trunk = read_trunk(config, {.hidden = 2048,
                                   .num_layers = 16,
                                   .heads = 16,
                                   .vocabulary = 50304,
                                   .context_tokens = 4096,
                                   .norm_epsilon = 1e-5});
  trunk.norm = head_norm::whole;
  trunk.qkv_bias = trunk.output_bias = config.flag("attention_bias", false);
  trunk.clip_qkv = config.number("clip_qkv", 0.0);
  if (config.has("clip_qkv") && !(trunk.clip_qkv > 0)) {
    config.refuse("clip_qkv", "a number above 0, or null", fmt::format("{}", trunk.clip_qkv));
  }
  if (config.sizes_known()) name_tensors(trunk, tensors, problems);
  return trunk;
}

}  // namespace troupe::model
