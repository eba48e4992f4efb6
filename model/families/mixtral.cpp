// Mixtral: softmax over all experts, top-k, always renormalised. Every block has experts.
#include <fmt/format.h>

#include "model/families/family.hpp"
#include "model/families/trunk_reader.hpp"

namespace troupe::model {

description describe_mixtral(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  expert_shape shape{.hidden = config.count("hidden_size", 4096), .width = config.count("intermediate_size", 14336)};
  gating gate;
  gate.num_experts = read_num_experts(config, "num_local_experts", 8);
  gate.top_k = read_top_k(config, "num_experts_per_tok", 2, gate.num_experts);
  gate.renorm = renormalise::always;
  auto num_layers = read_num_layers(config, "num_hidden_layers", 32);
  expect_silu(config);

  model_builder model{tensors, problems, shape.hidden};
  for (std::uint32_t block = 0; block < num_layers && config.sizes_known(); ++block) {
    auto prefix = fmt::format("model.layers.{}.block_sparse_moe", block);
    gate.weight = prefix + ".gate.weight";
    model.add_layer({layer_id::of(block), gate, shape, {}, gated_experts(prefix, {"w1", "w3", "w2"})});
  }
  return model.take();
}

trunk_description describe_mixtral_trunk(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  auto trunk = read_trunk(config, {.hidden = 4096,
                                   .num_layers = 32,
                                   .heads = 32,
                                   .kv_heads = 8,
                                   .vocabulary = 32000,
                                   .context_tokens = 131'072,
                                   .norm_epsilon = 1e-5,
                                   .rope_theta = 1e6,
                                   .own_head_dim = true});
  trunk.window = config.count_if_present("sliding_window").value_or(0);
  if (config.sizes_known()) name_tensors(trunk, tensors, problems);
  return trunk;
}

}  // namespace troupe::model
