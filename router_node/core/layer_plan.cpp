#include "router_node/core/layer_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "router_node/core/combine.hpp"

namespace troupe::router {
namespace {

// "0-3, 5, encoder.1": runs of neighbours are drawn together.
std::string list_layers(const std::vector<layer_plan>& layers) {
  std::string text;
  for (std::size_t begin = 0; begin < layers.size();) {
    auto end = begin + 1;
    while (end < layers.size() && layers[end].id.value == layers[end - 1].id.value + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ", ", to_string(layers[begin].id));
    if (end - begin > 1) text += fmt::format("-{}", to_string(layers[end - 1].id));
    begin = end;
  }
  return text;
}

std::string shape_text(const std::vector<std::uint64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

template <class Value>
Value load(const tensor_view& tensor, std::size_t index) {
  Value value;
  std::memcpy(&value, tensor.bytes.data() + index * sizeof value, sizeof value);
  return value;
}

}  // namespace

model_plan model_plan::make(const model::description& model, dtype wire, const model::group_limit& limit) {
  model_plan plan;
  plan.wire_ = wire;
  for (const auto& layer : model.layers) {
    plan.layers_.push_back({.id = layer.id,
                            .place = static_cast<std::uint32_t>(plan.layers_.size()),
                            .num_experts = layer.gate.num_experts,
                            .top_k = layer.gate.top_k,
                            .hidden = layer.shape.hidden,
                            .groups = std::max(layer.gate.num_groups, limit.groups),
                            .has_capacity = layer.gate.capacity.order != model::fill_order::none,
                            .has_shared = layer.shared.has_value()});
  }
  return plan;
}

const layer_plan* model_plan::find(layer_id layer) const {
  const auto at = std::ranges::lower_bound(layers_, layer, {}, &layer_plan::id);
  return at != layers_.end() && at->id == layer ? &*at : nullptr;
}

result<const layer_plan*> model_plan::find(std::string_view text) const {
  if (const auto id = parse_layer(text)) {
    if (const auto* layer = find(*id)) return layer;
  }
  // The text is the caller's: no more of it than a layer's name could have.
  return fail(errc::not_found, fmt::format("no MoE layer '{}'; this model's MoE layers are {}", text.substr(0, 32),
                                           list_layers(layers_)));
}

result<dtype> resolve_dtype(std::string_view asked, dtype stored) {
  if (asked == "f32") return dtype::f32;
  if (asked == "bf16") return dtype::bf16;
  if (asked == "auto") return model::default_compute_type(stored);
  return fail(errc::invalid_request, fmt::format("'{}' is no dtype to compute in; use auto, f32 or bf16", asked));
}

result<void> check_hidden(const layer_plan& layer, const tensor_view& hidden) {
  if (hidden.type != dtype::f32 && hidden.type != dtype::f16 && hidden.type != dtype::bf16) {
    return fail(errc::invalid_request,
                fmt::format("hidden: dtype {} is not supported; send F32, F16 or BF16", to_string(hidden.type)));
  }
  if (hidden.shape.size() != 2) {
    return fail(errc::invalid_request, fmt::format("hidden: shape {} has {} dimensions; send [rows, {}]",
                                                   shape_text(hidden.shape), hidden.shape.size(), layer.hidden));
  }
  const auto rows = hidden.shape[0];
  if (hidden.shape[1] != layer.hidden) {
    return fail(errc::invalid_request,
                fmt::format("hidden: rows have {} values, layer {} takes {}; is this another model's hidden state?",
                            hidden.shape[1], to_string(layer.id), layer.hidden));
  }
  if (rows == 0) return fail(errc::invalid_request, "hidden: 0 rows; send at least one");
  if (rows > limits::rows_per_request_max) {
    return fail(errc::too_large, fmt::format("hidden: {} rows, at most {} fit into one request; split it", rows,
                                             limits::rows_per_request_max));
  }
  const auto count = static_cast<std::size_t>(rows * hidden.shape[1]);
  if (const auto place = find_non_finite(hidden.bytes.data(), count, hidden.type); place != count) {
    return fail(errc::invalid_request, fmt::format("hidden: row {} holds NaN or infinity (column {}); repair the input",
                                                   place / layer.hidden, place % layer.hidden));
  }
  return {};
}

result<model::routing> check_choice(const layer_plan& layer, std::uint64_t rows, const tensor_view& ids,
                                    const tensor_view& weights) {
  if (ids.type != dtype::i32) {
    return fail(errc::invalid_request, fmt::format("expert_ids: dtype {}; send I32", to_string(ids.type)));
  }
  if (weights.type != dtype::f32) {
    return fail(errc::invalid_request, fmt::format("expert_weights: dtype {}; send F32", to_string(weights.type)));
  }
  if (ids.shape.size() != 2 || ids.shape[0] != rows || ids.shape[1] == 0) {
    return fail(errc::invalid_request,
                fmt::format("expert_ids: shape {} does not fit; send [{}, k]", shape_text(ids.shape), rows));
  }
  if (weights.shape != ids.shape) {
    return fail(errc::invalid_request,
                fmt::format("expert_weights: shape {} differs from that of expert_ids, {}; send one weight per id",
                            shape_text(weights.shape), shape_text(ids.shape)));
  }
  if (ids.shape[1] > limits::experts_per_token_max) {
    return fail(errc::too_large, fmt::format("expert_ids: {} experts per row, at most {}; split the request",
                                             ids.shape[1], limits::experts_per_token_max));
  }
  model::routing routing{
      .top_k = static_cast<std::uint32_t>(ids.shape[1]), .expert_ids = {}, .weights = {}, .dropped = {}};
  const auto count = static_cast<std::size_t>(rows * routing.top_k);
  routing.expert_ids.resize(count);
  routing.weights.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto id = load<std::int32_t>(ids, i);
    const auto weight = load<float>(weights, i);
    if (id < -1 || id >= static_cast<std::int64_t>(layer.num_experts)) {
      return fail(errc::unknown_expert,
                  fmt::format("expert_ids: row {} names {}; layer {} has experts 0-{}, -1 means none",
                              i / routing.top_k, id, to_string(layer.id), layer.num_experts - 1));
    }
    if (!std::isfinite(weight)) {
      return fail(errc::invalid_request,
                  fmt::format("expert_weights: row {} holds NaN or infinity; repair the input", i / routing.top_k));
    }
    routing.expert_ids[i] = id;
    routing.weights[i] = weight;
  }
  return routing;
}

std::chrono::milliseconds request_timeout(std::uint64_t asked_ms) {
  if (asked_ms == 0) return limits::request_timeout_default;
  const auto longest = static_cast<std::uint64_t>(limits::request_timeout_max.count());
  return std::chrono::milliseconds(std::min(asked_ms, longest));
}

std::optional<degrade> parse_degrade(std::string_view text) {
  if (text == "wait") return degrade::wait;
  if (text == "substitute") return degrade::substitute;
  if (text == "renormalise") return degrade::renormalise;
  if (text == "fail") return degrade::fail;
  return std::nullopt;
}

}  // namespace troupe::router
