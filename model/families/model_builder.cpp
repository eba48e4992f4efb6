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

bool is_supported(dtype type) { return type == dtype::f32 || type == dtype::f16 || type == dtype::bf16; }

std::string describe(const tensor_info& tensor) {
  return fmt::format("[{}] {}", fmt::join(tensor.shape, ", "), to_string(tensor.type));
}

// Of one expert's piece, as stored.
shape_t shape_of(tensor_role role, const expert_shape& shape, bool transposed) {
  std::uint64_t hidden = shape.hidden;
  std::uint64_t width = shape.width;
  auto matrix = [&](std::uint64_t out, std::uint64_t in) { return transposed ? shape_t{in, out} : shape_t{out, in}; };
  switch (role) {
    case tensor_role::gate:
    case tensor_role::up:
      return matrix(width, hidden);
    case tensor_role::gate_up:
      return matrix(2 * width, hidden);
    case tensor_role::down:
      return matrix(hidden, width);
    case tensor_role::gate_bias:
    case tensor_role::up_bias:
      return {width};
    case tensor_role::gate_up_bias:
      return {2 * width};
    case tensor_role::down_bias:
      return {hidden};
  }
  return {};
}

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

// One dtype for all experts, or f32, which loses nothing of a mixture.
dtype common_dtype(const std::vector<moe_layer>& layers) {
  std::optional<dtype> common;
  for (const auto& layer : layers) {
    for (const auto& expert : layer.experts) {
      if (common && *common != expert.stored) return dtype::f32;
      common = expert.stored;
    }
  }
  return common.value_or(dtype::f32);
}

}  // namespace

model_builder::model_builder(const tensor_index& tensors, problem_list& problems, std::uint32_t hidden)
    : tensors_(tensors), problems_(problems) {
  model_.hidden = hidden;
}

const tensor_info* require_tensor(const tensor_index& tensors, problem_list& problems, const std::string& name,
                                  const shape_t& shape) {
  auto found = tensors.find(name);
  if (found == tensors.end()) {
    problems.add(name, fmt::format("[{}]", fmt::join(shape, ", ")), "missing");
    return nullptr;
  }
  if (found->second.shape != shape || !is_supported(found->second.type)) {
    problems.add(name, fmt::format("[{}] F32, F16 or BF16", fmt::join(shape, ", ")), describe(found->second));
    return nullptr;
  }
  return &found->second;
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
  require(shared.gate, {shared.width, model_.hidden});
  require(shared.up, {shared.width, model_.hidden});
  require(shared.down, {model_.hidden, shared.width});
  if (!shared.sigmoid_gate.empty()) require(shared.sigmoid_gate, {1, model_.hidden});
}

std::vector<bool> model_builder::find_present(const layer_plan& plan) {
  const auto& first = plan.tensors.front();
  if (first.packed) return std::vector<bool>(plan.gate.num_experts, true);  // its first dimension is checked instead
  std::vector<bool> present(plan.gate.num_experts, false);
  std::vector<std::uint32_t> surplus;
  for (auto it = tensors_.lower_bound(first.before); it != tensors_.end() && it->first.starts_with(first.before);
       ++it) {
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

std::optional<bundle_tensor> model_builder::piece(const layer_plan& plan, const expert_tensor& tensor,
                                                  std::uint32_t expert) {
  bundle_tensor cut;
  cut.role = tensor.role;
  cut.name = tensor.packed ? tensor.before : fmt::format("{}{}{}", tensor.before, expert, tensor.after);
  cut.shape = shape_of(tensor.role, plan.shape, tensor.transposed);
  cut.transposed = tensor.transposed;
  const tensor_info* whole = nullptr;
  if (!tensor.packed) {
    whole = require(cut.name, cut.shape);
  } else if (expert == 0) {
    auto all = cut.shape;
    all.insert(all.begin(), plan.gate.num_experts);
    whole = require(cut.name, all);
  } else if (auto found = tensors_.find(cut.name); found != tensors_.end()) {
    whole = &found->second;  // judged with expert 0
  }
  if (whole == nullptr) return std::nullopt;
  cut.type = whole->type;
  cut.file = whole->file;
  cut.bytes = tensor.packed ? whole->bytes / plan.gate.num_experts : whole->bytes;
  cut.offset = whole->offset + (tensor.packed ? expert * cut.bytes : 0);
  return cut;
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
    for (const auto& tensor : plan.tensors) {
      if (auto cut = piece(plan, tensor, e)) bundle.tensors.push_back(std::move(*cut));
    }
    if (bundle.tensors.size() < plan.tensors.size()) {
      if (plan.tensors.front().packed) break;  // the same piece is missing of every expert, and reported once
      continue;
    }
    bundle.stored = bundle.tensors.front().type;
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
