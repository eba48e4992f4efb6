#include "router_node/shell/layer_engine.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include <fmt/format.h>

#include "compute/device.hpp"
#include "compute/shared_expert.hpp"
#include "compute/work_team.hpp"
#include "model/checkpoint.hpp"

namespace troupe::router {
namespace {

constexpr std::uint32_t gate_rows_per_task = 64;

struct layer_weights {
  model::gating gate;
  std::optional<model::gating> limited;  // the gate under the group limit, where there is one
  compute::dense_product product;
  std::vector<float> correction_bias;
  std::optional<compute::shared_expert> shared;
};

result<compute::shared_expert> read_shared(const model::checkpoint& checkpoint, const model::moe_layer& layer,
                                           dtype type, std::shared_ptr<compute::work_team> team) {
  const auto& names = *layer.shared;
  std::vector<float> tensors[4];
  const std::string* wanted[4] = {&names.gate, &names.up, &names.down, &names.sigmoid_gate};
  for (int i = 0; i < 4; ++i) {
    if (wanted[i]->empty()) continue;
    auto read = checkpoint.read_f32(*wanted[i]);
    if (!read) return fail(read.error());
    if (!std::ranges::all_of(*read, [](float x) { return std::isfinite(x); })) {
      return fail(errc::invalid_request,
                  fmt::format("tensor \"{}\" holds NaN or infinite values, or its scales do; restore the checkpoint",
                              *wanted[i]));
    }
    tensors[i] = std::move(*read);
  }
  return compute::shared_expert::make(
      {.gate = tensors[0], .up = tensors[1], .down = tensors[2], .sigmoid_gate = tensors[3]}, layer.shape.hidden,
      names.width, names.act, type, std::move(team));
}

result<layer_weights> read_layer(const model::checkpoint& checkpoint, const model::moe_layer& layer, dtype type,
                                 const std::shared_ptr<compute::work_team>& team) {
  auto gate = checkpoint.read_gate(layer.gate);
  if (!gate) return fail(gate.error());
  auto product =
      compute::dense_product::make(gate->weight, gate->bias, layer.gate.num_experts, layer.shape.hidden, dtype::f32);
  if (!product) return fail(product.error());
  layer_weights weights{layer.gate, std::nullopt, std::move(*product), std::move(gate->correction_bias), std::nullopt};
  if (layer.shared) {
    auto shared = read_shared(checkpoint, layer, type, team);
    if (!shared) return fail(shared.error());
    weights.shared.emplace(std::move(*shared));
  }
  return weights;
}

}  // namespace

struct layer_engine::state {
  std::shared_ptr<compute::work_team> team;
  std::vector<layer_weights> layers;
};

layer_engine::layer_engine(std::unique_ptr<state> s) : state_(std::move(s)) {}
layer_engine::~layer_engine() = default;

result<std::unique_ptr<layer_engine>> layer_engine::make(const model::checkpoint& checkpoint, dtype type,
                                                         std::uint32_t threads, const model::group_limit& limit) {
  auto gates = model::limit_groups(checkpoint.model(), limit);
  if (!gates) return fail(gates.error());
  const auto& layers = checkpoint.model().layers;
  auto team = compute::work_team::start(threads, "gates and shared experts");  // one for all layers
  if (!team) return fail(team.error());
  auto made = std::make_unique<state>();
  made->team = *team;
  for (const auto& layer : layers) {
    auto weights = read_layer(checkpoint, layer, type, *team);
    if (!weights) return fail(weights.error());
    if (limit.groups != 0) weights->limited = (*gates)[made->layers.size()];
    made->layers.push_back(std::move(*weights));
  }
  return std::unique_ptr<layer_engine>(new layer_engine(std::move(made)));
}

result<std::vector<float>> layer_engine::logits(const layer_plan& layer, const float* x, std::uint32_t rows) const {
  std::vector<float> y(std::size_t{rows} * layer.num_experts);
  const auto& product = state_->layers[layer.place].product;
  const auto tasks = (rows + gate_rows_per_task - 1) / gate_rows_per_task;
  auto multiply = [&](std::uint32_t task, std::uint32_t) {
    const std::size_t begin = std::size_t{task} * gate_rows_per_task;
    const auto count = std::min<std::size_t>(rows - begin, gate_rows_per_task);
    product.run(x + begin * layer.hidden, static_cast<std::uint32_t>(count), y.data() + begin * layer.num_experts);
  };
  if (auto done = state_->team->run(tasks, tasks == 1, multiply); !done) return fail(done.error());
  return y;
}

result<model::routing> layer_engine::choose(const layer_plan& layer, std::span<const float> logits,
                                            model::expert_mask mask, const model::exploration& exploring) const {
  const auto& weights = state_->layers[layer.place];
  if (weights.limited) {
    return model::choose_limited(weights.gate, *weights.limited, weights.correction_bias, logits, mask);
  }
  return model::choose_experts(weights.gate, weights.correction_bias, logits, mask, exploring);
}

model::masked_load layer_engine::look_behind_mask(const layer_plan& layer, std::span<const float> logits,
                                                  model::expert_mask mask) const {
  const auto& weights = state_->layers[layer.place];
  return model::look_behind_mask(weights.gate, weights.correction_bias, logits, mask);
}

result<void> layer_engine::add_shared(const layer_plan& layer, const float* x, std::uint32_t rows, float* y) {
  return state_->layers[layer.place].shared->add_to(x, rows, y);
}

}  // namespace troupe::router
