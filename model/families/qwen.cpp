#include "model/families/qwen.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace troupe::model {

namespace {

// By block: has it experts?
std::vector<bool> read_sparse_blocks(config_reader& config, std::uint32_t num_layers) {
  auto sparse_step = config.count("decoder_sparse_step", 1);
  auto dense_blocks = config.counts("mlp_only_layers");
  std::vector<bool> sparse;
  for (std::uint32_t block = 0; block < num_layers; ++block) {
    bool listed = std::ranges::find(dense_blocks, block) != dense_blocks.end();
    sparse.push_back((block + 1) % sparse_step == 0 && !listed);
  }
  return sparse;
}

}  // namespace

trunk_description read_qwen_trunk(config_reader& config, const trunk_defaults& defaults, std::uint32_t dense_width) {
  auto trunk = read_trunk(config, defaults);
  if (config.flag("use_sliding_window", false)) {
    trunk.window = config.is_null("sliding_window") ? 0 : config.count("sliding_window", 4096);
  }
  auto width = config.count("intermediate_size", dense_width);
  auto sparse = read_sparse_blocks(config, static_cast<std::uint32_t>(trunk.blocks.size()));
  for (std::size_t block = 0; block < trunk.blocks.size(); ++block) {
    if (!sparse[block])
      trunk.blocks[block].dense = gated_shared_expert(fmt::format("model.layers.{}.mlp", block), width);
  }
  return trunk;
}

description describe_qwen(config_reader& config, const stored_tensors& tensors, problem_list& problems,
                          const qwen_defaults& defaults) {
  expert_shape shape{.hidden = config.count("hidden_size", 2048),
                     .width = config.count("moe_intermediate_size", defaults.width)};
  gating gate;
  gate.num_experts = read_num_experts(config, "num_experts", defaults.num_experts);
  gate.top_k = read_top_k(config, "num_experts_per_tok", defaults.top_k, gate.num_experts);
  gate.renorm = config.flag("norm_topk_prob", false) ? renormalise::always : renormalise::never;
  auto num_layers = read_num_layers(config, "num_hidden_layers", 24);
  auto sparse = read_sparse_blocks(config, num_layers);
  auto shared_width = defaults.shared_width == 0
                          ? 0
                          : config.count("shared_expert_intermediate_size", defaults.shared_width, {.smallest = 0});
  expect_silu(config);

  model_builder model{tensors, problems, shape.hidden};
  for (std::uint32_t block = 0; block < num_layers && config.sizes_known(); ++block) {
    if (!sparse[block]) continue;
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    gate.weight = prefix + ".gate.weight";
    layer_plan plan{layer_id::of(block), gate, shape, {}, gated_experts(prefix)};
    if (shared_width > 0) {
      plan.shared = gated_shared_expert(prefix + ".shared_expert", shared_width);
      plan.shared->sigmoid_gate = prefix + ".shared_expert_gate.weight";
    }
    model.add_layer(std::move(plan));
  }
  return model.take();
}

}  // namespace troupe::model
