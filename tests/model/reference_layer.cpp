#include "tests/model/reference_layer.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <stdexcept>

namespace troupe::model::test {
namespace {

template <class T>
T value_of(result<T> outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
  return std::move(*outcome);
}

// [out, in] whatever way round it is stored.
struct matrix {
  std::vector<float> values;
  std::size_t out{};
  std::size_t in{};
  bool transposed{};
  [[nodiscard]] double at(std::size_t o, std::size_t i) const { return values[transposed ? i * out + o : o * in + i]; }
};

std::vector<double> product(const matrix& m, std::span<const double> x, const std::vector<float>& bias) {
  std::vector<double> y(m.out);
  for (std::size_t o = 0; o < m.out; ++o) {
    y[o] = bias.empty() ? 0.0 : bias[o];
    for (std::size_t i = 0; i < m.in; ++i) y[o] += m.at(o, i) * x[i];
  }
  return y;
}

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double activate(activation act, double gate, double up) {
  switch (act) {
    case activation::swiglu:
      return gate * sigmoid(gate) * up;
    case activation::clamped_glu:
      gate = std::min(gate, 7.0);
      return (std::clamp(up, -7.0, 7.0) + 1) * gate * sigmoid(1.702 * gate);
    case activation::relu:
      return std::max(up, 0.0);
    case activation::gelu_erf:
      return 0.5 * up * (1 + std::erf(up / std::numbers::sqrt2));
    case activation::gelu_tanh:
      return 0.5 * up * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (up + 0.044715 * up * up * up)));
  }
  return 0;
}

struct expert_weights {
  std::map<tensor_role, matrix> matrices;
  std::map<tensor_role, std::vector<float>> biases;
};

// By the formats' definitions, not by the tables under test.
double e4m3(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 3 & 15U);
  const double fraction = (bits & 7U) / 8.0;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1 + fraction, exponent - 7);
  return bits < 128 ? magnitude : -magnitude;
}

double e2m1(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 1 & 3U);
  const double fraction = (bits & 1U) / 2.0;
  const double magnitude = exponent == 0 ? fraction : std::ldexp(1 + fraction, exponent - 1);
  return bits < 8 ? magnitude : -magnitude;
}

// [out, in] from numbers, and from scales that stand behind them.
matrix dequantise(const bundle_layout& layout, const bundle_tensor& numbers, const std::byte* bytes,
                  const bundle_tensor& scales) {
  const bool is_mxfp4 = numbers.type == dtype::u8;
  matrix made{{}, numbers.shape[0], is_mxfp4 ? numbers.shape[1] * 32 : numbers.shape[1], false};
  const auto* scale_bytes = bytes + numbers.bytes;
  const std::size_t per_row = scales.shape[1];
  for (std::size_t o = 0; o < made.out; ++o) {
    for (std::size_t i = 0; i < made.in; ++i) {
      const std::size_t place = o * made.in + i;
      const std::size_t block = o / layout.block.outputs * per_row + i / layout.block.inputs;
      if (is_mxfp4) {
        const auto both = std::to_integer<unsigned>(bytes[place / 2]);
        const int exponent = std::to_integer<int>(scale_bytes[block]) - 127;
        made.values.push_back(static_cast<float>(std::ldexp(e2m1(place % 2 == 0 ? both % 16 : both / 16), exponent)));
      } else {
        float scale = 0;
        convert(scales.type, scale_bytes + block * bytes_per_element(scales.type), dtype::f32,
                reinterpret_cast<std::byte*>(&scale), 1);
        made.values.push_back(static_cast<float>(e4m3(std::to_integer<unsigned>(bytes[place])) * double{scale}));
      }
    }
  }
  return made;
}

expert_weights unpack(const checkpoint& source, const bundle_layout& layout) {
  std::vector<std::byte> bytes(layout.bytes());
  if (auto read = source.read_bundle(layout, bytes); !read) throw std::runtime_error(read.error().message);
  expert_weights weights;
  const auto* next = bytes.data();
  for (std::size_t t = 0; t < layout.tensors.size(); ++t) {
    const auto& tensor = layout.tensors[t];
    if (tensor.type == dtype::f8_e4m3 || tensor.type == dtype::u8) {
      const auto& scales = layout.tensors.at(++t);
      weights.matrices[tensor.role] = dequantise(layout, tensor, next, scales);
      next += tensor.bytes + scales.bytes;
      continue;
    }
    std::vector<float> values(tensor.bytes / bytes_per_element(tensor.type));
    convert(tensor.type, next, dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
    next += tensor.bytes;
    if (tensor.shape.size() == 1) {
      weights.biases[tensor.role] = std::move(values);
    } else {
      auto rows = tensor.shape[0];
      auto columns = tensor.shape[1];
      weights.matrices[tensor.role] = {std::move(values), tensor.transposed ? columns : rows,
                                       tensor.transposed ? rows : columns, tensor.transposed};
    }
  }
  return weights;
}

std::vector<double> run_row(const expert_weights& weights, const expert_shape& shape, std::span<const double> x) {
  auto bias = [&](tensor_role role) {
    auto found = weights.biases.find(role);
    return found == weights.biases.end() ? std::vector<float>{} : found->second;
  };
  std::vector<double> inner(shape.width);
  if (weights.matrices.contains(tensor_role::gate_up)) {
    auto both = product(weights.matrices.at(tensor_role::gate_up), x, bias(tensor_role::gate_up_bias));
    for (std::size_t i = 0; i < inner.size(); ++i) inner[i] = activate(shape.act, both[2 * i], both[2 * i + 1]);
  } else {
    auto up = product(weights.matrices.at(tensor_role::up), x, bias(tensor_role::up_bias));
    auto gate =
        is_gated(shape.act) ? product(weights.matrices.at(tensor_role::gate), x, bias(tensor_role::gate_bias)) : up;
    for (std::size_t i = 0; i < inner.size(); ++i) inner[i] = activate(shape.act, gate[i], up[i]);
  }
  return product(weights.matrices.at(tensor_role::down), inner, bias(tensor_role::down_bias));
}

void add_shared(const checkpoint& source, const shared_expert& shared, std::uint32_t hidden_size,
                std::span<const float> hidden, std::vector<float>& block) {
  expert_weights weights;
  weights.matrices[tensor_role::gate] = {value_of(source.read_f32(shared.gate)), shared.width, hidden_size, false};
  weights.matrices[tensor_role::up] = {value_of(source.read_f32(shared.up)), shared.width, hidden_size, false};
  weights.matrices[tensor_role::down] = {value_of(source.read_f32(shared.down)), hidden_size, shared.width, false};
  matrix scale;
  if (!shared.sigmoid_gate.empty()) scale = {value_of(source.read_f32(shared.sigmoid_gate)), 1, hidden_size, false};
  expert_shape shape{.hidden = hidden_size, .width = shared.width, .act = shared.act};
  for (std::size_t begin = 0; begin < hidden.size(); begin += hidden_size) {
    std::vector<double> x(hidden.begin() + static_cast<std::ptrdiff_t>(begin),
                          hidden.begin() + static_cast<std::ptrdiff_t>(begin + hidden_size));
    auto factor = scale.out == 0 ? 1.0 : sigmoid(product(scale, x, {})[0]);
    auto y = run_row(weights, shape, x);
    for (std::size_t i = 0; i < y.size(); ++i) block[begin + i] += static_cast<float>(factor * y[i]);
  }
}

}  // namespace

std::vector<float> run_expert(const checkpoint& source, const bundle_layout& layout, std::span<const float> rows) {
  auto weights = unpack(source, layout);
  std::vector<float> out;
  for (std::size_t begin = 0; begin < rows.size(); begin += layout.shape.hidden) {
    auto row = rows.subspan(begin, layout.shape.hidden);
    std::vector<double> x(row.begin(), row.end());
    for (double value : run_row(weights, layout.shape, x)) out.push_back(static_cast<float>(value));
  }
  return out;
}

layer_output run_layer(const checkpoint& source, const moe_layer& layer, std::span<const float> hidden) {
  auto parameters = value_of(source.read_gate(layer.gate));
  layer_output out;
  out.logits = reference_logits(layer.gate, parameters, hidden, layer.shape.hidden);
  out.chosen = value_of(choose_experts(layer.gate, parameters.correction_bias, out.logits));
  std::vector<double> sums(hidden.size());
  for (std::size_t place = 0; place < out.chosen.expert_ids.size(); ++place) {
    if (!out.chosen.dropped.empty() && out.chosen.dropped[place] != 0) continue;
    auto begin = place / out.chosen.top_k * layer.shape.hidden;
    const auto& expert = layer.experts[static_cast<std::size_t>(out.chosen.expert_ids[place])];
    auto y = run_expert(source, expert, hidden.subspan(begin, layer.shape.hidden));
    for (std::size_t i = 0; i < y.size(); ++i) sums[begin + i] += double{out.chosen.weights[place]} * double{y[i]};
  }
  for (double sum : sums) out.routed.push_back(static_cast<float>(sum));
  out.block = out.routed;
  if (layer.shared) add_shared(source, *layer.shared, layer.shape.hidden, hidden, out.block);
  return out;
}

}  // namespace troupe::model::test
