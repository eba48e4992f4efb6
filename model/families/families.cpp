#include "model/families/families.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/families/family.hpp"
#include "model/json_document.hpp"

namespace troupe::model {
namespace {

struct family {
  std::string_view model_type;
  describe_function describe;
  describe_trunk_function describe_trunk{};
  quant_method quantised{quant_method::none};  // the one that its published checkpoints use
};

constexpr std::array<family, 9> families{{
    {"deepseek_v2", describe_deepseek_v2, nullptr, quant_method::fp8},
    {"deepseek_v3", describe_deepseek_v3, nullptr, quant_method::fp8},
    {"gpt_oss", describe_gpt_oss, nullptr, quant_method::mxfp4},
    {"mixtral", describe_mixtral, describe_mixtral_trunk, quant_method::fp8},
    {"olmoe", describe_olmoe, describe_olmoe_trunk, quant_method::fp8},
    {"qwen2_moe", describe_qwen2_moe, describe_qwen2_moe_trunk, quant_method::fp8},
    {"qwen3_moe", describe_qwen3_moe, describe_qwen3_moe_trunk, quant_method::fp8},
    {"switch_transformers", describe_switch_transformers},
    {"vmoe", describe_vmoe},
}};

result<const family*> find_family(const nlohmann::json& config) {
  auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) {
    return fail(errc::invalid_request,
                fmt::format("config.json has no model_type; known ones: {}", fmt::join(known_families(), ", ")));
  }
  const auto& name = type->get_ref<const std::string&>();
  const auto* found = std::ranges::find(families, std::string_view{name}, &family::model_type);
  if (found == families.end()) {
    return fail(errc::invalid_request,
                fmt::format("config.json: unknown architecture, model_type \"{}\"; known ones: {}", printable(name),
                            fmt::join(known_families(), ", ")));
  }
  return found;
}

}  // namespace

std::vector<std::string_view> known_families() {
  std::vector<std::string_view> names;
  for (const auto& one : families) names.push_back(one.model_type);
  return names;
}

namespace {

struct known_config {
  nlohmann::json document;
  const family* kind;
  quantisation quantised;
};

result<known_config> read_config(std::string_view config_json) {
  auto config = parse_json(config_json, limits::config_json_bytes_max);
  if (!config) return fail(config.error().code, "config.json: " + config.error().message);
  if (!config->is_object()) return fail(errc::invalid_request, "config.json is not a JSON object; repair the file");
  auto found = find_family(*config);
  if (!found) return fail(found.error());
  auto quantised = read_quantisation(*config, (*found)->quantised);
  if (!quantised) return fail(quantised.error());
  return known_config{std::move(*config), *found, *quantised};
}

error to_error(const problem_list& problems, const family& kind) {
  return problems.to_error(fmt::format("{} checkpoint", kind.model_type),
                           "config.json and the files disagree, or ask for what is not supported");
}

}  // namespace

result<description> describe(std::string_view config_json, const tensor_index& tensors) {
  auto config = read_config(config_json);
  if (!config) return fail(config.error());
  problem_list problems;
  config_reader reader{config->document, problems};
  auto model = config->kind->describe(reader, {tensors, config->quantised}, problems);
  if (problems.empty() && model.layers.empty()) {
    problems.add("config.json", "at least one MoE layer", "none: every block is dense");
  }
  if (!problems.empty()) return fail(to_error(problems, *config->kind));
  model.family = config->kind->model_type;
  model.block = config->quantised.block;
  return model;
}

bool has_trunk(std::string_view name) {
  const auto* found = std::ranges::find(families, name, &family::model_type);
  return found != families.end() && found->describe_trunk != nullptr;
}

result<trunk_description> describe_trunk(std::string_view config_json, const tensor_index& tensors) {
  auto config = read_config(config_json);
  if (!config) return fail(config.error());
  if (config->kind->describe_trunk == nullptr) {
    std::vector<std::string_view> able;
    std::ranges::copy_if(known_families(), std::back_inserter(able), has_trunk);
    return fail(errc::invalid_request,
                fmt::format("text cannot be generated with {}, only single layers be computed; families with a trunk: "
                            "{}",
                            config->kind->model_type, fmt::join(able, ", ")));
  }
  problem_list problems;
  config_reader reader{config->document, problems};
  auto trunk = config->kind->describe_trunk(reader, {tensors, config->quantised}, problems);
  if (!problems.empty()) return fail(to_error(problems, *config->kind));
  return trunk;
}

std::uint32_t read_num_layers(config_reader& config, std::string_view key, std::uint32_t fallback) {
  return config.count(key, fallback, {1, static_cast<std::uint32_t>(limits::layers_max)});
}

std::uint32_t read_num_experts(config_reader& config, std::string_view key, std::optional<std::uint32_t> fallback) {
  return config.count(key, fallback, {1, static_cast<std::uint32_t>(limits::experts_per_layer_max)});
}

std::uint32_t read_top_k(config_reader& config, std::string_view key, std::optional<std::uint32_t> fallback,
                         std::uint32_t num_experts) {
  auto top_k = config.count(key, fallback, {1, limits::experts_per_token_max});
  if (config.sizes_known() && top_k > num_experts) {
    config.refuse(key, fmt::format("at most the {} experts", num_experts), fmt::format("{}", top_k));
  }
  return top_k;
}

void expect_silu(config_reader& config) { config.choice("hidden_act", "silu", {"silu", "swish"}); }

std::vector<expert_tensor> gated_experts(const std::string& prefix, std::array<std::string_view, 3> names) {
  auto before = prefix + ".experts.";
  std::vector<expert_tensor> tensors;
  for (auto [role, name] :
       {std::pair{tensor_role::gate, names[0]}, {tensor_role::up, names[1]}, {tensor_role::down, names[2]}}) {
    tensors.push_back({.role = role, .before = before, .after = fmt::format(".{}.weight", name)});
  }
  return tensors;
}

shared_expert gated_shared_expert(const std::string& prefix, std::uint32_t width) {
  shared_expert shared;
  shared.width = width;
  shared.gate = prefix + ".gate_proj.weight";
  shared.up = prefix + ".up_proj.weight";
  shared.down = prefix + ".down_proj.weight";
  return shared;
}

}  // namespace troupe::model
