#include "model/description.hpp"

#include <algorithm>
#include <cassert>

#include "model/quantised.hpp"

namespace troupe::model {
namespace {

// [out, in] of a weight, and of the weight that a scale or bias belongs to.
struct extents {
  std::uint64_t out;
  std::uint64_t in;
};

extents extents_of(tensor_role role, const expert_shape& shape) {
  const std::uint64_t hidden = shape.hidden;
  const std::uint64_t width = shape.width;
  switch (role) {
    case tensor_role::gate:
    case tensor_role::up:
    case tensor_role::gate_bias:
    case tensor_role::up_bias:
    case tensor_role::gate_scale:
    case tensor_role::up_scale:
      return {width, hidden};
    case tensor_role::down:
    case tensor_role::down_bias:
    case tensor_role::down_scale:
      return {hidden, width};
    case tensor_role::gate_up:
    case tensor_role::gate_up_bias:
    case tensor_role::gate_up_scale:
      return {2 * width, hidden};
  }
  return {0, 0};
}

}  // namespace

std::vector<std::uint64_t> stored_shape(tensor_role role, const expert_shape& shape, bool transposed, bool is_mxfp4,
                                        const scale_block& block) {
  assert(block.outputs != 0 && block.inputs != 0);
  const auto size = extents_of(role, shape);
  if (is_scale(role)) return scales_shape(size.out, size.in, block);
  if (!is_weight(role)) return {size.out};
  if (is_mxfp4) return {size.out, size.in / mxfp4_block.inputs, mxfp4_block.inputs / 2};
  return transposed ? std::vector{size.in, size.out} : std::vector{size.out, size.in};
}

std::string_view stored_name(dtype stored) { return stored == dtype::u8 ? "MXFP4" : to_string(stored); }

std::uint64_t bundle_layout::bytes() const {
  std::uint64_t sum = 0;
  for (const auto& tensor : tensors) sum += tensor.bytes;
  return sum;
}

const moe_layer* description::find(layer_id layer) const {
  auto found = std::ranges::lower_bound(layers, layer, {}, &moe_layer::id);
  return found != layers.end() && found->id == layer ? &*found : nullptr;
}

const bundle_layout* description::find(const expert_id& expert) const {
  const auto* layer = find(expert.layer);
  return layer != nullptr && expert.index < layer->experts.size() ? &layer->experts[expert.index] : nullptr;
}

std::uint64_t description::bundle_bytes() const {
  std::uint64_t sum = 0;
  for (const auto& layer : layers) {
    for (const auto& expert : layer.experts) sum += expert.bytes();
  }
  return sum;
}

}  // namespace troupe::model
