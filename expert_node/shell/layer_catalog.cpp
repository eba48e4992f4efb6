#include "expert_node/shell/layer_catalog.hpp"

#include <utility>

#include "model/checkpoint.hpp"
#include "model/description.hpp"

namespace troupe::expert {

layer_catalog::layer_catalog(std::shared_ptr<const model::checkpoint> checkpoint) : checkpoint_{std::move(checkpoint)} {
  if (checkpoint_ == nullptr) return;
  for (const auto& layer : checkpoint_->model().layers) hidden_.emplace(layer.id, layer.shape.hidden);
}

std::optional<std::uint32_t> layer_catalog::hidden(layer_id layer) const {
  std::shared_lock lock{mutex_};
  auto found = hidden_.find(layer);
  return found == hidden_.end() ? std::nullopt : std::optional{found->second};
}

std::shared_ptr<const model::bundle_layout> layer_catalog::layout(const expert_id& expert) const {
  if (checkpoint_ == nullptr) return nullptr;
  return {checkpoint_, checkpoint_->model().find(expert)};
}

void layer_catalog::learn(const model::bundle_layout& layout) {
  std::lock_guard lock{mutex_};
  hidden_.try_emplace(layout.id.layer, layout.shape.hidden);
}

}  // namespace troupe::expert
