#include "model/families/model_builder.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/limits.hpp"

namespace troupe::model {
namespace {

using shape_t = std::vector<std::uint64_t>;

// {0,1,2,5} -> "0-2, 5"
std::string ranges_of(const std::vector<std::uint32_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    auto last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += i == last ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[last]);
    i = last + 1;
  }
  return text;
}

// One dtype for all experts. Of a mixture: bf16 if all of it is meant for bf16, else f32, which loses nothing.
dtype common_dtype(const std::vector<moe_layer>& layers) {
  std::optional<dtype> common;
  for (const auto& layer : layers) {
    for (const auto& expert : layer.experts) {
      if (!common) common = expert.stored;
      if (*common == expert.stored) continue;
      const bool narrow =
          default_compute_type(*common) == dtype::bf16 && default_compute_type(expert.stored) == dtype::bf16;
      common = narrow ? dtype::bf16 : dtype::f32;
    }
  }
  return common.value_or(dtype::f32);
}

}  // namespace

model_builder::model_builder(const stored_tensors& tensors, problem_list& problems, std::uint32_t hidden)
    : tensors_(tensors), problems_(problems) {
  model_.hidden = hidden;
}

const tensor_info* model_builder::require(const std::string& name, const shape_t& shape) {
  return require_tensor(tensors_, problems_, name, shape);
}

void model_builder::check_gate(const layer_plan& plan) {
  const auto& gate = plan.gate;
  require(gate.weight, {gate.num_experts, plan.shape.hidden});
  if (!gate.bias.empty()) require(gate.bias, {gate.num_experts});
  if (!gate.correction_bias.empty()) require(gate.correction_bias, {gate.num_experts});
}

void model_builder::check_shared(const shared_expert& shared) {
  require_weight(tensors_, problems_, shared.gate, shared.width, model_.hidden);
  require_weight(tensors_, problems_, shared.up, shared.width, model_.hidden);
  require_weight(tensors_, problems_, shared.down, model_.hidden, shared.width);
  if (!shared.sigmoid_gate.empty()) require(shared.sigmoid_gate, {1, model_.hidden});
}

std::vector<bool> model_builder::find_present(const layer_plan& plan) {
  const auto& first = plan.tensors.front();
  if (first.packed) return std::vector<bool>(plan.gate.num_experts, true);  // its first dimension is checked instead
  std::vector<bool> present(plan.gate.num_experts, false);
  std::vector<std::uint32_t> surplus;
  for (auto it = tensors_.index.lower_bound(first.before);
       it != tensors_.index.end() && it->first.starts_with(first.before); ++it) {
    auto rest = std::string_view{it->first}.substr(first.before.size());
    std::uint32_t index = 0;
    auto [end, failure] = std::from_chars(rest.data(), rest.data() + rest.size(), index);
    auto after = rest.substr(static_cast<std::size_t>(end - rest.data()));
    bool is_ours =
        failure == std::errc{} && std::ranges::find(plan.tensors, after, &expert_tensor::after) != plan.tensors.end();
    if (is_ours && index < present.size()) present[index] = true;
    if (is_ours && index >= present.size() && after == first.after) surplus.push_back(index);
  }
  report_count(plan, present, std::move(surplus));
  return present;
}

void model_builder::report_count(const layer_plan& plan, const std::vector<bool>& present,
                                 std::vector<std::uint32_t> surplus) {
  std::vector<std::uint32_t> missing;
  for (std::uint32_t e = 0; e < present.size(); ++e) {
    if (!present[e]) missing.push_back(e);
  }
  if (missing.empty() && surplus.empty()) return;
  auto found = fmt::format("{}", present.size() - missing.size() + surplus.size());
  if (!missing.empty()) found += fmt::format("; no expert {}", ranges_of(missing));
  std::ranges::sort(surplus);
  if (!surplus.empty()) found += fmt::format("; also expert {}", ranges_of(surplus));
  problems_.add(fmt::format("{}*", plan.tensors.front().before), fmt::format("{} experts", present.size()),
                std::move(found));
}

const tensor_info* model_builder::require_piece(const bundle_tensor& cut, const expert_tensor& tensor,
                                                std::uint32_t expert, std::uint32_t num_experts) {
  if (!tensor.packed) {
    if (is_weight(tensor.role) && !tensor.transposed) {
      return require_weight(tensors_, problems_, cut.name, cut.shape[0], cut.shape[1]);
    }
    return require(cut.name, cut.shape);
  }
  if (expert != 0) {  // judged with expert 0
    auto found = tensors_.index.find(cut.name);
    return found != tensors_.index.end() ? &found->second : nullptr;
  }
  auto all = cut.shape;
  all.insert(all.begin(), num_experts);
  const bool is_mxfp4 = tensors_.quantised.method == quant_method::mxfp4;
  const auto& rule = is_mxfp4 && is_weight(tensor.role)  ? mxfp4_elements
                     : is_mxfp4 && is_scale(tensor.role) ? mxfp4_scales
                                                         : plain_elements;
  return require_tensor(tensors_, problems_, cut.name, all, rule);
}

std::optional<bundle_tensor> model_builder::piece(const layer_plan& plan, const expert_tensor& tensor,
                                                  std::uint32_t expert) {
  bundle_tensor cut;
  cut.role = tensor.role;
  cut.name = tensor.packed ? tensor.before : fmt::format("{}{}{}", tensor.before, expert, tensor.after);
  cut.shape = stored_shape(tensor.role, plan.shape, tensor.transposed, tensors_.quantised.method == quant_method::mxfp4,
                           tensors_.quantised.block);
  cut.transposed = tensor.transposed;
  const auto* whole = require_piece(cut, tensor, expert, plan.gate.num_experts);
  if (whole == nullptr) return std::nullopt;
  cut.type = whole->type;
  cut.file = whole->file;
  cut.bytes = tensor.packed ? whole->bytes / plan.gate.num_experts : whole->bytes;
  cut.offset = whole->offset + (tensor.packed ? expert * cut.bytes : 0);
  return cut;
}

bundle_tensor model_builder::scales_of(const bundle_tensor& weight, const expert_shape& shape) const {
  const auto& whole = tensors_.index.find(fp8_scale_name(weight.name))->second;
  const auto role = scale_of(weight.role);
  return {.role = role,
          .name = whole.name,
          .type = whole.type,
          .shape = stored_shape(role, shape, false, false, tensors_.quantised.block),
          .transposed = false,
          .file = whole.file,
          .offset = whole.offset,
          .bytes = whole.bytes};
}

void model_builder::add_layer(layer_plan plan) {
  check_gate(plan);
  if (plan.shared) check_shared(*plan.shared);
  auto present = find_present(plan);
  moe_layer layer;
  for (std::uint32_t e = 0; e < plan.gate.num_experts; ++e) {
    if (!present[e]) continue;
    bundle_layout bundle;
    bundle.id = {plan.id, e};
    bundle.shape = plan.shape;
    bool is_complete = true;
    for (const auto& tensor : plan.tensors) {
      auto cut = piece(plan, tensor, e);
      is_complete = is_complete && cut.has_value();
      if (!cut) continue;
      bundle.tensors.push_back(*cut);
      if (cut->type == dtype::f8_e4m3) bundle.tensors.push_back(scales_of(*cut, plan.shape));
    }
    if (!is_complete) {
      if (plan.tensors.front().packed) break;  // the same piece is missing of every expert, and reported once
      continue;
    }
    bundle.stored = bundle.tensors.front().type;
    bundle.block = tensors_.quantised.block;
    layer.experts.push_back(std::move(bundle));
  }
  layer.id = plan.id;
  layer.gate = std::move(plan.gate);
  layer.shape = plan.shape;
  layer.shared = std::move(plan.shared);
  model_.layers.push_back(std::move(layer));
}

description model_builder::take() {
  std::ranges::sort(model_.layers, {}, &moe_layer::id);
  model_.stored = common_dtype(model_.layers);
  return std::move(model_);
}

}  // namespace troupe::model
