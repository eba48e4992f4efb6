// V-MoE (vision): softmax over all experts, top-k, weights never renormalised, biases on both products. A buffer of
// `capacity` places per expert and call, or of T x k x capacity_factor / experts, is filled by first choices before
// second ones, in token order or by each token's largest weight. Checkpoints hold one layer; the config format is ours.
#include <fmt/format.h>

#include "model/families/family.hpp"

namespace troupe::model {
namespace {

capacity_rule read_capacity(config_reader& config) {
  capacity_rule rule;
  rule.order = config.flag("batch_priority", false) ? fill_order::batch_priority : fill_order::token;
  rule.fixed = config.count_if_present("capacity");
  rule.factor = config.number("capacity_factor", 0.0);
  if (!rule.fixed && rule.factor <= 0) {
    config.refuse("capacity", "a count, or a capacity_factor above 0",
                  config.has("capacity_factor") ? fmt::format("capacity_factor {}", rule.factor) : "neither");
  }
  return rule;
}

}  // namespace

description describe_vmoe(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  expert_shape shape{
      .hidden = config.count("hidden_size"), .width = config.count("intermediate_size"), .has_bias = true};
  auto act = config.choice("hidden_act", "gelu_erf", {"gelu_erf", "gelu_tanh"});
  shape.act = act == "gelu_tanh" ? activation::gelu_tanh : activation::gelu_erf;
  gating gate;
  gate.num_experts = read_num_experts(config, "num_experts", {});
  gate.top_k = read_top_k(config, "num_selected_experts", {}, gate.num_experts);
  gate.capacity = read_capacity(config);
  gate.weight = "gate.weight";

  model_builder model{tensors, problems, shape.hidden};
  if (config.sizes_known()) {
    model.add_layer({layer_id::of(0),
                     gate,
                     shape,
                     {},
                     {{.role = tensor_role::up, .before = "experts.", .after = ".wi.weight"},
                      {.role = tensor_role::up_bias, .before = "experts.", .after = ".wi.bias"},
                      {.role = tensor_role::down, .before = "experts.", .after = ".wo.weight"},
                      {.role = tensor_role::down_bias, .before = "experts.", .after = ".wo.bias"}}});
  }
  return model.take();
}

}  // namespace troupe::model
