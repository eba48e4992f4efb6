// The arithmetic of the router itself: gates and shared experts of all layers, packed once at start.
// Thread rule: one thread (the router's) after make.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "model/gating.hpp"
#include "router_node/core/layer_plan.hpp"

namespace troupe::model {
class checkpoint;
}

namespace troupe::router {

class layer_engine {
 public:
  // Reads gates and shared experts of every layer. `type`: what shared experts are computed in (f32 or bf16); gates are
  // always f32. `threads`: for gates and shared experts. `limit`: what limit_groups refuses is refused.
  [[nodiscard]] static result<std::unique_ptr<layer_engine>> make(const model::checkpoint& checkpoint, dtype type,
                                                                  std::uint32_t threads,
                                                                  const model::group_limit& limit = {});
  ~layer_engine();
  layer_engine(const layer_engine&) = delete;
  layer_engine& operator=(const layer_engine&) = delete;

  // x [rows, H] f32 -> logits [rows, N]. internal when a product fails.
  [[nodiscard]] result<std::vector<float>> logits(const layer_plan& layer, const float* x, std::uint32_t rows) const;
  // `exploring`: not together with a group limit, which has no use for it.
  [[nodiscard]] result<model::routing> choose(const layer_plan& layer, std::span<const float> logits,
                                              model::expert_mask mask, const model::exploration& exploring = {}) const;
  // What the rows lose by the mask. @pre !mask.empty()
  [[nodiscard]] model::masked_load look_behind_mask(const layer_plan& layer, std::span<const float> logits,
                                                    model::expert_mask mask) const;
  // y [rows, H] += the layer's shared expert. @pre layer.has_shared
  [[nodiscard]] result<void> add_shared(const layer_plan& layer, const float* x, std::uint32_t rows, float* y);

 private:
  struct state;
  explicit layer_engine(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::router
