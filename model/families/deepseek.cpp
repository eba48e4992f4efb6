#include "model/families/deepseek.hpp"

#include <fmt/format.h>

namespace troupe::model {

void read_groups(config_reader& config, gating& gate, std::uint32_t num_groups, std::uint32_t top_k_groups) {
  gate.num_groups = num_groups;
  gate.top_k_groups = top_k_groups;
  if (!config.sizes_known()) return;
  if (gate.num_experts % num_groups != 0) {
    config.refuse("n_group", fmt::format("a divisor of the {} experts", gate.num_experts),
                  fmt::format("{}", num_groups));
    return;
  }
  if (top_k_groups > num_groups) {
    config.refuse("topk_group", fmt::format("at most n_group, {}", num_groups), fmt::format("{}", top_k_groups));
  }
  auto reachable = std::uint64_t{gate.num_experts / num_groups} * top_k_groups;
  if (gate.top_k > reachable) {
    config.refuse("num_experts_per_tok", fmt::format("at most {}, the experts of {} groups", reachable, top_k_groups),
                  fmt::format("{}", gate.top_k));
  }
}

description describe_deepseek(config_reader& config, const stored_tensors& tensors, problem_list& problems, gating gate,
                              const deepseek_defaults& defaults) {
  expert_shape shape{.hidden = config.count("hidden_size", defaults.hidden),
                     .width = config.count("moe_intermediate_size", defaults.width)};
  auto num_layers = read_num_layers(config, "num_hidden_layers", defaults.num_layers);
  auto first_dense = config.count("first_k_dense_replace", defaults.first_dense, {.smallest = 0});
  auto frequency = config.count("moe_layer_freq", 1);
  // null means no shared expert, a missing key the default.
  auto num_shared =
      config.count("n_shared_experts", config.is_null("n_shared_experts") ? 0 : defaults.num_shared, {0, 1024});
  expect_silu(config);

  model_builder model{tensors, problems, shape.hidden};
  bool has_correction = !gate.correction_bias.empty();
  for (auto block = first_dense; block < num_layers && config.sizes_known(); ++block) {
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    gate.weight = prefix + ".gate.weight";
    // DeepSeek's own code makes blocks dense by moe_layer_freq, transformers ignores it: the files say who wrote them.
    if (block % frequency != 0 && !model.has_tensor(gate.weight)) continue;
    if (has_correction) gate.correction_bias = prefix + ".gate.e_score_correction_bias";
    layer_plan plan{layer_id::of(block), gate, shape, {}, gated_experts(prefix)};
    if (num_shared > 0) plan.shared = gated_shared_expert(prefix + ".shared_experts", shape.width * num_shared);
    model.add_layer(std::move(plan));
  }
  return model.take();
}

}  // namespace troupe::model
