// Switch Transformers (an encoder-decoder): top-1 with the plain softmax probability as weight, and a fixed capacity
// per expert and sequence; a dropped token's output is zero.
#include <fmt/format.h>

#include "model/families/family.hpp"

namespace troupe::model {
namespace {

struct stack_plan {
  layer_stack stack;
  std::string_view name;
  std::uint32_t feed_forward;  // the sublayer behind attention: 1, or 2 where cross-attention stands before it
  std::uint32_t num_blocks;
  std::uint32_t sparse_step;
};

// The config class computes the step from the number of sparse layers, unless the file names the step. Zero sparse
// layers give the step `num_blocks`, with which block 1 still has experts: that is what the reference does.
std::uint32_t read_step(config_reader& config, std::string_view stack, std::uint32_t num_blocks) {
  auto sparse = config.count(fmt::format("num_sparse_{}_layers", stack), 3, {.smallest = 0});
  auto computed = sparse > 0 ? num_blocks / sparse : num_blocks;
  return config.count(fmt::format("{}_sparse_step", stack), computed, {.smallest = 0});
}

bool is_sparse(std::uint32_t block, std::uint32_t step) { return step == 1 || (step > 0 && block % step == 1); }

activation read_activation(config_reader& config) {
  auto name = config.choice("dense_act_fn", "relu",
                            {"relu", "gelu", "gelu_python", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"});
  if (name == "relu") return activation::relu;
  return name == "gelu" || name == "gelu_python" ? activation::gelu_erf : activation::gelu_tanh;
}

void add_stack(const stack_plan& stack, const gating& shared_gate, const expert_shape& shape, bool router_bias,
               model_builder& model) {
  for (std::uint32_t block = 0; block < stack.num_blocks; ++block) {
    if (!is_sparse(block, stack.sparse_step)) continue;
    auto prefix = fmt::format("{}.block.{}.layer.{}.mlp", stack.name, block, stack.feed_forward);
    auto gate = shared_gate;
    gate.weight = prefix + ".router.classifier.weight";
    if (router_bias) gate.bias = prefix + ".router.classifier.bias";
    auto before = prefix + ".experts.expert_";
    model.add_layer({layer_id::of(block, stack.stack),
                     gate,
                     shape,
                     {},
                     {{.role = tensor_role::up, .before = before, .after = ".wi.weight"},
                      {.role = tensor_role::down, .before = before, .after = ".wo.weight"}}});
  }
}

}  // namespace

description describe_switch_transformers(config_reader& config, const stored_tensors& tensors, problem_list& problems) {
  expert_shape shape{
      .hidden = config.count("d_model", 768), .width = config.count("d_ff", 2048), .act = read_activation(config)};
  gating gate;
  gate.num_experts = read_num_experts(config, "num_experts", 8);
  gate.top_k = 1;
  gate.capacity = {fill_order::token, config.count("expert_capacity", 64), 0};
  auto router_bias = config.flag("router_bias", false);
  config.choice("router_dtype", "float32", {"float32"});
  auto encoder_blocks = read_num_layers(config, "num_layers", 12);
  // null means as many as the encoder has; a missing key means 12.
  auto decoder_blocks =
      read_num_layers(config, "num_decoder_layers", config.is_null("num_decoder_layers") ? encoder_blocks : 12);
  stack_plan encoder{layer_stack::encoder, "encoder", 1, encoder_blocks, read_step(config, "encoder", encoder_blocks)};
  stack_plan decoder{layer_stack::decoder, "decoder", 2, decoder_blocks, read_step(config, "decoder", decoder_blocks)};

  model_builder model{tensors, problems, shape.hidden};
  if (config.sizes_known()) {
    add_stack(encoder, gate, shape, router_bias, model);
    add_stack(decoder, gate, shape, router_bias, model);
  }
  return model.take();
}

}  // namespace troupe::model
