#include "model/families/stored_tensors.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "model/config_reader.hpp"

namespace troupe::model {
namespace {

constexpr const char* key = "quantization_config";

std::string describe(const tensor_info& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.shape, ", "), to_string(tensor.type));
}

std::string_view name_of(quant_method method) { return method == quant_method::mxfp4 ? "mxfp4" : "fp8"; }

error unsupported(std::string_view asked, quant_method supported) {
  const auto also = supported == quant_method::none ? std::string{} : fmt::format(" and {}", name_of(supported));
  return {
      errc::invalid_request,
      fmt::format("config.json: the weights are quantised ({}); only F32, F16, BF16{} weights of this family can be "
                  "served, so convert the checkpoint to BF16 and remove {}",
                  printable(asked), also, key)};
}

constexpr element_rule weight_elements{"F32, F16, BF16 or F8_E4M3",
                                       [](dtype type) { return is_plain(type) || type == dtype::f8_e4m3; }};

}  // namespace

result<quantisation> read_quantisation(const nlohmann::json& config, quant_method supported) {
  problem_list problems;
  config_reader reader{config, problems};
  auto section = reader.section(key);
  if (!section && problems.empty()) return quantisation{};
  quantisation found;
  if (section) {
    const auto method = config.find(key)->find("quant_method");
    const bool is_named = method != config.find(key)->end() && method->is_string();
    const auto asked = is_named ? method->get<std::string>() : "an unnamed method";
    if (supported == quant_method::none || asked != name_of(supported)) return fail(unsupported(asked, supported));
    found.method = supported;
    found.block = mxfp4_block;
    if (supported == quant_method::fp8) {
      section->choice("fmt", "e4m3", {"e4m3"});
      const auto sizes = section->counts("weight_block_size");
      const bool fits = sizes.size() == 2 && sizes[0] != 0 && sizes[1] != 0;
      if (fits) found.block = {.outputs = sizes[0], .inputs = sizes[1]};
      if (!fits) section->refuse("weight_block_size", "two sizes, as in [128, 128]", fmt::format("{}", sizes));
    }
  }
  if (problems.empty()) return found;
  return fail(problems.to_error("quantised checkpoint",
                                "of fp8 only weights with a scale per block can be served; "
                                "otherwise convert the checkpoint to BF16"));
}

const tensor_info* require_tensor(const stored_tensors& tensors, problem_list& problems, const std::string& name,
                                  const std::vector<std::uint64_t>& shape, const element_rule& rule) {
  auto found = tensors.index.find(name);
  if (found == tensors.index.end()) {
    problems.add(name, fmt::format("[{}]", fmt::join(shape, ", ")), "missing");
    return nullptr;
  }
  if (found->second.shape != shape || !rule.accepts(found->second.type)) {
    problems.add(name, fmt::format("[{}] {}", fmt::join(shape, ", "), rule.text), describe(found->second));
    return nullptr;
  }
  return &found->second;
}

const tensor_info* require_weight(const stored_tensors& tensors, problem_list& problems, const std::string& name,
                                  std::uint64_t out, std::uint64_t in) {
  if (tensors.quantised.method != quant_method::fp8) return require_tensor(tensors, problems, name, {out, in});
  const auto* weight = require_tensor(tensors, problems, name, {out, in}, weight_elements);
  if (weight == nullptr) return nullptr;
  const auto scales = fp8_scale_name(name);
  if (weight->type == dtype::f8_e4m3) {
    const auto shape = scales_shape(out, in, tensors.quantised.block);
    return require_tensor(tensors, problems, scales, shape) != nullptr ? weight : nullptr;
  }
  const auto stray = tensors.index.find(scales);
  if (stray == tensors.index.end()) return weight;
  problems.add(scales, fmt::format("no scale beside {} weights", to_string(weight->type)), describe(stray->second));
  return nullptr;
}

}  // namespace troupe::model
