#include "compute/bundle_plan.hpp"

#include <array>
#include <cassert>
#include <cstring>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "model/quantised.hpp"

namespace troupe::compute {
namespace {

using model::tensor_role;

constexpr std::array<const char*, 12> role_names{"gate",       "up",       "down",       "gate_up",
                                                 "gate_bias",  "up_bias",  "down_bias",  "gate_up_bias",
                                                 "gate_scale", "up_scale", "down_scale", "gate_up_scale"};

const char* name_of(tensor_role role) { return role_names.at(static_cast<std::size_t>(role)); }

bool is_bias(tensor_role role) { return !model::is_weight(role) && !model::is_scale(role); }

// [out, in] of the whole stored tensor; biases have one input.
struct extents {
  std::uint64_t out;
  std::uint64_t in;
};

// @pre not the role of scales
extents expected_extents(tensor_role role, const model::expert_shape& shape) {
  std::uint64_t hidden = shape.hidden;
  std::uint64_t width = shape.width;
  switch (role) {
    case tensor_role::gate:
    case tensor_role::up:
      return {width, hidden};
    case tensor_role::down:
      return {hidden, width};
    case tensor_role::gate_up:
      return {2 * width, hidden};
    case tensor_role::gate_bias:
    case tensor_role::up_bias:
      return {width, 1};
    case tensor_role::down_bias:
      return {hidden, 1};
    case tensor_role::gate_up_bias:
      return {2 * width, 1};
    default:
      return {0, 0};
  }
}

std::string text_of(const std::vector<std::uint64_t>& shape) {
  std::string text;
  for (auto extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return text;
}

tl::unexpected<error> refuse(const model::bundle_layout& layout, const std::string& what) {
  return fail(errc::invalid_request,
              fmt::format("bundle of expert {}: {}; check the checkpoint with `troupe model verify`",
                          to_string(layout.id), what));
}

// Extents of one dimension in front (a slice of a packed tensor) do not change where elements lie.
std::vector<std::uint64_t> without_leading_ones(std::vector<std::uint64_t> shape, std::size_t rank) {
  while (shape.size() > rank && shape.front() == 1) shape.erase(shape.begin());
  return shape;
}

result<void> check_type(const model::bundle_layout& layout, const model::bundle_tensor& tensor) {
  const bool is_known = model::is_plain(tensor.type) || model::is_scale(tensor.role) ||
                        (model::is_weight(tensor.role) && model::is_quantised(tensor.type));
  if (is_known) return {};
  return refuse(layout, fmt::format("tensor {} has type {}, which no device computes with (F32, F16, BF16; F8_E4M3 and "
                                    "mxfp4 for weights)",
                                    tensor.name, to_string(tensor.type)));
}

result<void> check_bytes(const model::bundle_layout& layout, const model::bundle_tensor& tensor) {
  auto bytes = checked_bytes(tensor.type, tensor.shape);
  if (bytes && *bytes == tensor.bytes) return {};
  return refuse(layout, fmt::format("tensor {} has {} bytes, which is not shape {} of {}", tensor.name, tensor.bytes,
                                    text_of(tensor.shape), to_string(tensor.type)));
}

// Of quantised weights and their scales.
result<void> check_quantised(const model::bundle_layout& layout, const model::bundle_tensor& tensor) {
  const bool is_mxfp4 = tensor.type == dtype::u8;
  const auto expected = model::stored_shape(tensor.role, layout.shape, tensor.transposed, is_mxfp4, layout.block);
  // Half a block of mxfp4 is nowhere defined.
  const bool is_whole =
      !is_mxfp4 || model::is_scale(tensor.role) ||
      (layout.shape.hidden % model::mxfp4_block.inputs == 0 && layout.shape.width % model::mxfp4_block.inputs == 0);
  if (tensor.shape != expected || tensor.transposed || !is_whole) {
    return refuse(layout,
                  fmt::format("tensor {} ({}) has shape {}{}, expected {}", tensor.name, name_of(tensor.role),
                              text_of(tensor.shape), tensor.transposed ? ", transposed" : "", text_of(expected)));
  }
  return check_bytes(layout, tensor);
}

result<void> check_tensor(const model::bundle_layout& layout, const model::bundle_tensor& tensor) {
  if (auto fine = check_type(layout, tensor); !fine) return fine;
  if (!model::is_plain(tensor.type) || model::is_scale(tensor.role)) return check_quantised(layout, tensor);
  auto expected = expected_extents(tensor.role, layout.shape);
  bool bias = is_bias(tensor.role);
  auto shape = without_leading_ones(tensor.shape, bias ? 1 : 2);
  bool fits = bias ? shape.size() == 1 && shape[0] == expected.out
                   : shape.size() == 2 && shape[tensor.transposed ? 1 : 0] == expected.out &&
                         shape[tensor.transposed ? 0 : 1] == expected.in;
  if (!fits) {
    return refuse(layout, fmt::format("tensor {} ({}) has shape {}, expected {} outputs and {} inputs{}", tensor.name,
                                      name_of(tensor.role), text_of(tensor.shape), expected.out, expected.in,
                                      tensor.transposed ? ", transposed" : ""));
  }
  return check_bytes(layout, tensor);
}

matrix_piece whole_piece(const model::bundle_tensor& tensor, std::size_t offset, const extents& size) {
  matrix_piece piece;
  piece.offset = offset;
  piece.type = tensor.type;
  piece.out = static_cast<std::uint32_t>(size.out);
  piece.in = static_cast<std::uint32_t>(size.in);
  bool transposed = tensor.transposed && !is_bias(tensor.role);
  piece.stride_out = transposed ? 1 : size.in;
  piece.stride_in = transposed ? size.out : 1;
  return piece;
}

// Every second output of an interleaved tensor, from the `first`.
matrix_piece every_second(matrix_piece whole, std::size_t first) {
  whole.first = first * whole.stride_out;
  whole.out /= 2;
  whole.stride_out *= 2;
  return whole;
}

class planner {
 public:
  explicit planner(const model::bundle_layout& layout) : layout_(layout) {}

  result<void> add(const model::bundle_tensor& tensor, std::size_t offset) {
    if (auto fine = check_tensor(layout_, tensor); !fine) return fine;
    if (model::is_scale(tensor.role)) return keep_scales(tensor, offset);
    auto whole = whole_piece(tensor, offset, expected_extents(tensor.role, layout_.shape));
    switch (tensor.role) {
      case tensor_role::gate:
        return set(plan_.gate, whole, tensor);
      case tensor_role::up:
        return set(plan_.up, whole, tensor);
      case tensor_role::down:
        return set(plan_.down, whole, tensor);
      case tensor_role::gate_bias:
        return set(plan_.gate_bias, whole, tensor);
      case tensor_role::up_bias:
        return set(plan_.up_bias, whole, tensor);
      case tensor_role::down_bias:
        return set(plan_.down_bias, whole, tensor);
      case tensor_role::gate_up:
        if (auto fine = set(plan_.gate, every_second(whole, 0), tensor); !fine) return fine;
        return set(plan_.up, every_second(whole, 1), tensor);
      case tensor_role::gate_up_bias:
        if (auto fine = set(plan_.gate_bias, every_second(whole, 0), tensor); !fine) return fine;
        return set(plan_.up_bias, every_second(whole, 1), tensor);
      default:
        break;
    }
    return refuse(layout_, fmt::format("tensor {} has an unknown role", tensor.name));
  }

  result<bundle_plan> finish() {
    const auto& shape = layout_.shape;
    bool gated = model::is_gated(shape.act);
    const std::array<std::pair<const matrix_piece*, std::pair<tensor_role, bool>>, 6> parts{{
        {&plan_.gate, {tensor_role::gate, gated}},
        {&plan_.up, {tensor_role::up, true}},
        {&plan_.down, {tensor_role::down, true}},
        {&plan_.gate_bias, {tensor_role::gate_bias, gated && shape.has_bias}},
        {&plan_.up_bias, {tensor_role::up_bias, shape.has_bias}},
        {&plan_.down_bias, {tensor_role::down_bias, shape.has_bias}},
    }};
    for (const auto& [piece, rule] : parts) {
      if ((piece->out != 0) == rule.second) continue;
      return refuse(layout_, fmt::format("{} {}", name_of(rule.first), rule.second ? "is missing" : "is not expected"));
    }
    if (auto fine = attach_scales(); !fine) return fail(fine.error());
    return plan_;
  }

 private:
  result<void> keep_scales(const model::bundle_tensor& tensor, std::size_t offset) {
    auto& kept = scales_.at(static_cast<std::size_t>(tensor.role) - static_cast<std::size_t>(tensor_role::gate_scale));
    if (kept.tensor != nullptr) {
      return refuse(layout_, fmt::format("tensor {} ({}) is there twice", tensor.name, name_of(tensor.role)));
    }
    kept = {&tensor, offset};
    return {};
  }

  // Each quantised weight has scales of the right kind, and no other weight has any.
  result<void> attach_scales() {
    for (const auto& weight : layout_.tensors) {
      if (!model::is_weight(weight.role)) continue;
      auto& kept = scales_.at(static_cast<std::size_t>(weight.role));
      if (!model::is_quantised(weight.type)) continue;
      const auto role = model::scale_of(weight.role);
      const bool fits = kept.tensor != nullptr && model::is_scale_type(weight.type, kept.tensor->type) &&
                        (weight.type != dtype::u8 || layout_.block == model::mxfp4_block);
      if (!fits) {
        return refuse(layout_, fmt::format("tensor {} is {} and has no {} that fits it", weight.name,
                                           model::stored_name(weight.type), name_of(role)));
      }
      const piece_scales scales{.offset = kept.offset, .type = kept.tensor->type, .block = layout_.block};
      if (weight.role == tensor_role::gate || weight.role == tensor_role::gate_up) plan_.gate.scales = scales;
      if (weight.role == tensor_role::up || weight.role == tensor_role::gate_up) plan_.up.scales = scales;
      if (weight.role == tensor_role::down) plan_.down.scales = scales;
      kept = {};
    }
    for (const auto& kept : scales_) {
      if (kept.tensor == nullptr) continue;
      return refuse(layout_, fmt::format("{} is not expected", name_of(kept.tensor->role)));
    }
    return {};
  }

  result<void> set(matrix_piece& target, const matrix_piece& piece, const model::bundle_tensor& tensor) {
    if (target.out != 0) {
      return refuse(layout_, fmt::format("tensor {} ({}) is there twice", tensor.name, name_of(tensor.role)));
    }
    target = piece;
    return {};
  }

  struct stored_scales {
    const model::bundle_tensor* tensor{};
    std::size_t offset{};
  };

  const model::bundle_layout& layout_;
  bundle_plan plan_;
  std::array<stored_scales, 4> scales_{};  // by the role of their weight
};

}  // namespace

result<bundle_plan> plan_bundle(const model::bundle_layout& layout, std::size_t bundle_bytes) {
  if (layout.shape.hidden == 0 || layout.shape.width == 0) {
    return refuse(layout, fmt::format("hidden {} or width {} is zero", layout.shape.hidden, layout.shape.width));
  }
  if (layout.block.outputs == 0 || layout.block.inputs == 0) {
    return refuse(layout,
                  fmt::format("scales for blocks of {} x {} weights", layout.block.outputs, layout.block.inputs));
  }
  planner plan(layout);
  std::size_t offset = 0;
  for (const auto& tensor : layout.tensors) {
    if (auto fine = plan.add(tensor, offset); !fine) return fail(fine.error());
    offset += tensor.bytes;
  }
  if (offset != bundle_bytes) {
    return refuse(layout, fmt::format("{} bytes were given, its tensors have {}", bundle_bytes, offset));
  }
  return plan.finish();
}

float read_element(const matrix_piece& piece, const std::byte* bundle, std::size_t o, std::size_t i) {
  assert(model::is_plain(piece.type));
  const std::byte* at = bundle + piece.offset + piece.index(o, i) * bytes_per_element(piece.type);
  if (piece.type == dtype::f32) {
    float value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  return piece.type == dtype::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

void read_row(const matrix_piece& piece, const std::byte* bundle, std::size_t o, float* target) {
  if (!model::is_quantised(piece.type)) {
    for (std::size_t i = 0; i < piece.in; ++i) target[i] = read_element(piece, bundle, o, i);
    return;
  }
  const model::quantised_matrix stored{.type = piece.type,
                                       .numbers = bundle + piece.offset,
                                       .scale_type = piece.scales.type,
                                       .scales = bundle + piece.scales.offset,
                                       .in = piece.in,
                                       .block = piece.scales.block};
  model::dequantise_row(stored, piece.index(o, 0) / piece.in, target);
}

}  // namespace troupe::compute
