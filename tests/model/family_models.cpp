#include "tests/model/family_models.hpp"

#include <stdexcept>
#include <tuple>
#include <utility>

#include <fmt/format.h>

#include "model/quantised.hpp"

namespace troupe::model::test {
namespace {

void add_mlp(tensor_set& tensors, const std::string& prefix, std::uint32_t width, const model_sizes& s) {
  tensors.add(prefix + ".gate_proj.weight", {width, s.hidden}, s.type);
  tensors.add(prefix + ".up_proj.weight", {width, s.hidden}, s.type);
  tensors.add(prefix + ".down_proj.weight", {s.hidden, width}, s.type);
}

void add_block(family_model& model, std::uint32_t block, const model_sizes& s) {
  auto prefix = fmt::format("model.layers.{}.mlp", block);
  model.tensors.add(prefix + ".gate.weight", {s.experts, s.hidden}, s.type);
  for (std::uint32_t e = 0; e < s.experts; ++e)
    add_mlp(model.tensors, fmt::format("{}.experts.{}", prefix, e), s.width, s);
}

family_model mixtral(const model_sizes& s) {
  family_model model{{{"model_type", "mixtral"},
                      {"hidden_size", s.hidden},
                      {"intermediate_size", s.width},
                      {"num_hidden_layers", s.layers},
                      {"num_local_experts", s.experts},
                      {"num_experts_per_tok", s.top_k}},
                     tensor_set{1}};
  for (std::uint32_t block = 0; block < s.layers; ++block) {
    auto prefix = fmt::format("model.layers.{}.block_sparse_moe", block);
    model.tensors.add(prefix + ".gate.weight", {s.experts, s.hidden}, s.type);
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      model.tensors.add(fmt::format("{}.experts.{}.w1.weight", prefix, e), {s.width, s.hidden}, s.type);
      model.tensors.add(fmt::format("{}.experts.{}.w2.weight", prefix, e), {s.hidden, s.width}, s.type);
      model.tensors.add(fmt::format("{}.experts.{}.w3.weight", prefix, e), {s.width, s.hidden}, s.type);
    }
  }
  return model;
}

// qwen2_moe, qwen3_moe and olmoe differ in the shared expert and in the name of the expert's width.
family_model with_mlp_gate(const std::string& family, const model_sizes& s) {
  family_model model{{{"model_type", family},
                      {"hidden_size", s.hidden},
                      {family == "olmoe" ? "intermediate_size" : "moe_intermediate_size", s.width},
                      {"num_hidden_layers", s.layers},
                      {"num_experts", s.experts},
                      {"num_experts_per_tok", s.top_k}},
                     tensor_set{2}};
  for (std::uint32_t block = 0; block < s.layers; ++block) {
    add_block(model, block, s);
    if (family != "qwen2_moe") continue;
    auto prefix = fmt::format("model.layers.{}.mlp.shared_expert", block);
    add_mlp(model.tensors, prefix, 13, s);
    model.tensors.add(prefix + "_gate.weight", {1, s.hidden}, s.type);
  }
  if (family == "qwen2_moe") model.config["shared_expert_intermediate_size"] = 13;
  return model;
}

family_model deepseek(const std::string& family, const model_sizes& s) {
  family_model model{{{"model_type", family},
                      {"hidden_size", s.hidden},
                      {"moe_intermediate_size", s.width},
                      {"num_hidden_layers", s.layers},
                      {"n_routed_experts", s.experts},
                      {"num_experts_per_tok", s.top_k},
                      {"n_shared_experts", 2},
                      {"first_k_dense_replace", 1}},
                     tensor_set{3}};
  if (family == "deepseek_v3") model.config.update({{"n_group", 1}, {"topk_group", 1}});
  add_mlp(model.tensors, "model.layers.0.mlp", 17, s);
  for (std::uint32_t block = 1; block < s.layers; ++block) {
    add_block(model, block, s);
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    add_mlp(model.tensors, prefix + ".shared_experts", 2 * s.width, s);
    if (family == "deepseek_v3") model.tensors.add(prefix + ".gate.e_score_correction_bias", {s.experts}, dtype::f32);
  }
  return model;
}

family_model gpt_oss(const model_sizes& s) {
  family_model model{{{"model_type", "gpt_oss"},
                      {"hidden_size", s.hidden},
                      {"intermediate_size", s.width},
                      {"num_hidden_layers", s.layers},
                      {"num_local_experts", s.experts},
                      {"num_experts_per_tok", s.top_k}},
                     tensor_set{4}};
  for (std::uint32_t block = 0; block < s.layers; ++block) {
    auto prefix = fmt::format("model.layers.{}.mlp", block);
    model.tensors.add(prefix + ".router.weight", {s.experts, s.hidden}, s.type);
    model.tensors.add(prefix + ".router.bias", {s.experts}, s.type);
    model.tensors.add(prefix + ".experts.gate_up_proj", {s.experts, s.hidden, 2 * s.width}, s.type);
    model.tensors.add(prefix + ".experts.gate_up_proj_bias", {s.experts, 2 * s.width}, s.type);
    model.tensors.add(prefix + ".experts.down_proj", {s.experts, s.width, s.hidden}, s.type);
    model.tensors.add(prefix + ".experts.down_proj_bias", {s.experts, s.hidden}, s.type);
  }
  return model;
}

// One sparse block (number 1) in each stack of 3 and 2 blocks.
family_model switch_transformers(const model_sizes& s) {
  family_model model{{{"model_type", "switch_transformers"},
                      {"d_model", s.hidden},
                      {"d_ff", s.width},
                      {"num_layers", 3},
                      {"num_sparse_encoder_layers", 1},
                      {"num_decoder_layers", 2},
                      {"num_sparse_decoder_layers", 1},
                      {"num_experts", s.experts},
                      {"expert_capacity", 4}},
                     tensor_set{5}};
  for (auto prefix : {"encoder.block.1.layer.1.mlp", "decoder.block.1.layer.2.mlp"}) {
    model.tensors.add(fmt::format("{}.router.classifier.weight", prefix), {s.experts, s.hidden}, s.type);
    for (std::uint32_t e = 0; e < s.experts; ++e) {
      model.tensors.add(fmt::format("{}.experts.expert_{}.wi.weight", prefix, e), {s.width, s.hidden}, s.type);
      model.tensors.add(fmt::format("{}.experts.expert_{}.wo.weight", prefix, e), {s.hidden, s.width}, s.type);
    }
  }
  return model;
}

family_model vmoe(const model_sizes& s) {
  family_model model{{{"model_type", "vmoe"},
                      {"hidden_size", s.hidden},
                      {"intermediate_size", s.width},
                      {"num_experts", s.experts},
                      {"num_selected_experts", s.top_k},
                      {"capacity", 2}},
                     tensor_set{6}};
  model.tensors.add("gate.weight", {s.experts, s.hidden}, s.type);
  for (std::uint32_t e = 0; e < s.experts; ++e) {
    model.tensors.add(fmt::format("experts.{}.wi.weight", e), {s.width, s.hidden}, s.type);
    model.tensors.add(fmt::format("experts.{}.wi.bias", e), {s.width}, s.type);
    model.tensors.add(fmt::format("experts.{}.wo.weight", e), {s.hidden, s.width}, s.type);
    model.tensors.add(fmt::format("experts.{}.wo.bias", e), {s.hidden}, s.type);
  }
  return model;
}

family_model deepseek_fp8(const model_sizes& s) {
  constexpr scale_block block{4, 3};
  auto model = deepseek("deepseek_v3", s);
  model.config["quantization_config"] = {
      {"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {block.outputs, block.inputs}}};
  std::vector<std::pair<std::string, std::vector<std::uint64_t>>> weights;
  for (const auto& [name, tensor] : model.tensors.entries()) {
    if (name.ends_with("_proj.weight")) weights.emplace_back(name, tensor.shape);
  }
  for (const auto& [name, shape] : weights) {
    model.tensors.add_bytes(name, shape, dtype::f8_e4m3, 0x80, 0xfe);  // 0xff is NaN
    model.tensors.add(name + "_scale_inv", scales_shape(shape[0], shape[1], block));
  }
  return model;
}

family_model gpt_oss_mxfp4(const model_sizes& s) {
  auto model = gpt_oss(s);
  model.config["quantization_config"] = {{"quant_method", "mxfp4"}};
  for (std::uint32_t block = 0; block < s.layers; ++block) {
    const auto prefix = fmt::format("model.layers.{}.mlp.experts.", block);
    for (auto [name, out, in] : {std::tuple{"gate_up_proj", 2 * s.width, s.hidden}, {"down_proj", s.hidden, s.width}}) {
      model.tensors.erase(prefix + name);
      model.tensors.add_bytes(prefix + name + "_blocks", {s.experts, out, in / 32, 16}, dtype::u8);
      model.tensors.add_bytes(prefix + name + "_scales", {s.experts, out, in / 32}, dtype::u8, 120, 128);
    }
  }
  return model;
}

}  // namespace

void family_model::write(const temporary_folder& folder) const {
  folder.write("config.json", config.dump());
  folder.write("model.safetensors", tensors.document());
}

tensor_index family_model::index() const {
  auto document = tensors.document();
  auto header = parse_safetensors(document, document.size());
  if (!header) throw std::runtime_error(header.error().message);
  tensor_index found;
  for (auto& tensor : header->tensors) found.emplace(tensor.name, tensor);
  return found;
}

std::string open_error(const std::filesystem::path& folder) {
  auto opened = checkpoint::open(folder);
  return opened ? "" : opened.error().message;
}

checkpoint must_open(const std::filesystem::path& folder) {
  auto opened = checkpoint::open(folder);
  if (!opened) throw std::runtime_error(opened.error().message);
  return std::move(*opened);
}

const std::vector<std::string>& all_families() {
  static const std::vector<std::string> names{"deepseek_v2", "deepseek_v3", "gpt_oss",   "mixtral",
                                              "olmoe",       "qwen2_moe",   "qwen3_moe", "switch_transformers",
                                              "vmoe"};
  return names;
}

family_model make_model(const std::string& family, const model_sizes& sizes) {
  if (family == "mixtral") return mixtral(sizes);
  if (family == "qwen2_moe" || family == "qwen3_moe" || family == "olmoe") return with_mlp_gate(family, sizes);
  if (family == "deepseek_v2" || family == "deepseek_v3") return deepseek(family, sizes);
  if (family == "gpt_oss") return gpt_oss(sizes);
  if (family == "switch_transformers") return switch_transformers(sizes);
  if (family == "vmoe") return vmoe(sizes);
  if (family == "deepseek_v3_fp8") return deepseek_fp8(sizes);
  if (family == "gpt_oss_mxfp4") return gpt_oss_mxfp4(sizes);
  throw std::runtime_error("no such family: " + family);
}

}  // namespace troupe::model::test
