// What this node knows about the shape of layers and bundles: all of it when it has the checkpoint's folder, else what
// it has learned from the peers it loaded from. Any thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <shared_mutex>

#include "common/ids.hpp"

namespace troupe::model {
class checkpoint;
struct bundle_layout;
}  // namespace troupe::model

namespace troupe::expert {

class layer_catalog {
 public:
  // `checkpoint`: nullptr when this node has no folder of its own.
  explicit layer_catalog(std::shared_ptr<const model::checkpoint> checkpoint);

  // Length of the layer's rows; nullopt: no such MoE layer, as far as this node knows.
  [[nodiscard]] std::optional<std::uint32_t> hidden(layer_id layer) const;
  // Of the checkpoint; nullptr without one, or when it has no such expert.
  [[nodiscard]] std::shared_ptr<const model::bundle_layout> layout(const expert_id& expert) const;
  [[nodiscard]] const std::shared_ptr<const model::checkpoint>& checkpoint() const { return checkpoint_; }

  void learn(const model::bundle_layout& layout);

 private:
  const std::shared_ptr<const model::checkpoint> checkpoint_;
  mutable std::shared_mutex mutex_;
  std::map<layer_id, std::uint32_t> hidden_;  // guarded by mutex_
};

}  // namespace troupe::expert
