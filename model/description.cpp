#include "model/description.hpp"

#include <algorithm>

namespace troupe::model {

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
