#include "tests/compute/sample_expert.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace troupe::compute::test {
namespace {

using model::tensor_role;

std::vector<double> draw(std::size_t count, double scale, dtype stored, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<double> values(count);
  for (auto& value : values) {
    float wide = normal(random) * static_cast<float>(scale);
    std::byte narrow[4];
    float back = 0;
    convert(dtype::f32, reinterpret_cast<const std::byte*>(&wide), stored, narrow, 1);
    convert(stored, narrow, dtype::f32, reinterpret_cast<std::byte*>(&back), 1);
    value = back;
  }
  return values;
}

class bundle_writer {
 public:
  explicit bundle_writer(sample_expert& sample) : sample_(sample) {}

  // values[o * in + i] at (o, i)
  void matrix(tensor_role role, std::uint64_t out, std::uint64_t in, bool transposed,
              const std::vector<double>& values) {
    std::vector<double> order;
    for (std::uint64_t a = 0; a < (transposed ? in : out); ++a) {
      for (std::uint64_t b = 0; b < (transposed ? out : in); ++b) {
        order.push_back(transposed ? values[b * in + a] : values[a * in + b]);
      }
    }
    append(role, transposed ? std::vector{in, out} : std::vector{out, in}, transposed, order);
  }
  void bias(tensor_role role, const std::vector<double>& values) { append(role, {values.size()}, false, values); }

 private:
  void append(tensor_role role, std::vector<std::uint64_t> shape, bool transposed, const std::vector<double>& values) {
    auto type = sample_.layout.stored;
    std::size_t begin = sample_.bundle.size();
    std::size_t bytes = values.size() * bytes_per_element(type);
    sample_.bundle.resize(begin + bytes);
    for (std::size_t i = 0; i < values.size(); ++i) {
      auto value = static_cast<float>(values[i]);
      convert(dtype::f32, reinterpret_cast<const std::byte*>(&value), type,
              sample_.bundle.data() + begin + i * bytes_per_element(type), 1);
    }
    sample_.layout.tensors.push_back({.role = role,
                                      .name = "tensor." + std::to_string(static_cast<int>(role)),
                                      .type = type,
                                      .shape = std::move(shape),
                                      .transposed = transposed,
                                      .file = 0,
                                      .offset = begin,
                                      .bytes = bytes});
  }

  sample_expert& sample_;
};

std::vector<double> interleave(const std::vector<double>& even, const std::vector<double>& odd, std::size_t in) {
  std::vector<double> both;
  for (std::size_t o = 0; o < even.size() / in; ++o) {
    both.insert(both.end(), even.begin() + o * in, even.begin() + (o + 1) * in);
    both.insert(both.end(), odd.begin() + o * in, odd.begin() + (o + 1) * in);
  }
  return both;
}

double activation_of(model::activation act, double g, double u) {
  switch (act) {
    case model::activation::swiglu:
      return g * u / (1 + std::exp(-g));
    case model::activation::clamped_glu:
      g = std::fmin(g, 7);
      u = std::fmax(-7, std::fmin(u, 7));
      return (u + 1) * (g / (1 + std::exp(-1.702 * g)));
    case model::activation::relu:
      return std::fmax(u, 0);
    case model::activation::gelu_erf:
      return u * 0.5 * (1 + std::erf(u / std::sqrt(2.0)));
    case model::activation::gelu_tanh:
      return u * 0.5 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (u + 0.044715 * std::pow(u, 3))));
  }
  return 0;
}

double dot(const std::vector<double>& weights, std::size_t o, std::span<const double> x) {
  return std::inner_product(x.begin(), x.end(), weights.begin() + static_cast<std::ptrdiff_t>(o * x.size()), 0.0);
}

}  // namespace

sample_expert make_sample(const model::expert_shape& shape, dtype stored, stored_form form, std::uint32_t seed) {
  std::mt19937 random{seed};
  sample_expert sample;
  sample.layout = {.id = {layer_id::of(3), seed}, .shape = shape, .stored = stored, .tensors = {}};
  std::size_t size = std::size_t{shape.hidden} * shape.width;
  bool gated = model::is_gated(shape.act);
  double first_scale = 1 / std::sqrt(shape.hidden);
  if (gated) sample.gate = draw(size, first_scale, stored, random);
  sample.up = draw(size, first_scale, stored, random);
  sample.down = draw(size, 1 / std::sqrt(shape.width), stored, random);
  if (shape.has_bias) {
    if (gated) sample.gate_bias = draw(shape.width, 0.5, stored, random);
    sample.up_bias = draw(shape.width, 0.5, stored, random);
    sample.down_bias = draw(shape.hidden, 0.5, stored, random);
  }
  bundle_writer writer(sample);
  bool transposed = form == stored_form::transposed || form == stored_form::interleaved_transposed;
  bool interleaved = form == stored_form::interleaved || form == stored_form::interleaved_transposed;
  if (interleaved) {
    writer.matrix(tensor_role::gate_up, 2ULL * shape.width, shape.hidden, transposed,
                  interleave(sample.gate, sample.up, shape.hidden));
    if (shape.has_bias) writer.bias(tensor_role::gate_up_bias, interleave(sample.gate_bias, sample.up_bias, 1));
  } else {
    if (gated) writer.matrix(tensor_role::gate, shape.width, shape.hidden, transposed, sample.gate);
    writer.matrix(tensor_role::up, shape.width, shape.hidden, transposed, sample.up);
    if (gated && shape.has_bias) writer.bias(tensor_role::gate_bias, sample.gate_bias);
    if (shape.has_bias) writer.bias(tensor_role::up_bias, sample.up_bias);
  }
  writer.matrix(tensor_role::down, shape.hidden, shape.width, transposed, sample.down);
  if (shape.has_bias) writer.bias(tensor_role::down_bias, sample.down_bias);
  return sample;
}

std::vector<double> expected_output(const sample_expert& expert, std::span<const float> row) {
  const auto& shape = expert.layout.shape;
  std::vector<double> x(row.begin(), row.end());
  std::vector<double> h(shape.width);
  for (std::size_t o = 0; o < h.size(); ++o) {
    double g = expert.gate.empty() ? 0 : dot(expert.gate, o, x);
    double u = dot(expert.up, o, x);
    if (!expert.gate_bias.empty()) g += expert.gate_bias[o];
    if (!expert.up_bias.empty()) u += expert.up_bias[o];
    h[o] = activation_of(shape.act, g, u);
  }
  std::vector<double> y(shape.hidden);
  for (std::size_t o = 0; o < y.size(); ++o) {
    y[o] = dot(expert.down, o, h) + (expert.down_bias.empty() ? 0 : expert.down_bias[o]);
  }
  return y;
}

std::vector<float> random_values(std::size_t count, std::uint32_t seed) {
  std::mt19937 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (auto& value : values) value = normal(random);
  return values;
}

std::vector<float> sample_batch::outputs() const {
  std::vector<float> wide(values.size());
  convert(type, output.data(), dtype::f32, reinterpret_cast<std::byte*>(wide.data()), wide.size());
  return wide;
}

sample_batch make_batch(const model::expert_shape& shape, dtype type, std::uint32_t rows, std::uint32_t experts,
                        std::uint32_t per_row, std::uint32_t seed) {
  std::mt19937 random{seed};
  sample_batch work{.shape = shape, .type = type, .rows = rows};
  auto drawn = random_values(std::size_t{rows} * shape.hidden, seed + 1);
  work.input.resize(drawn.size() * bytes_per_element(type));
  convert(dtype::f32, reinterpret_cast<const std::byte*>(drawn.data()), type, work.input.data(), drawn.size());
  work.values.resize(drawn.size());
  convert(type, work.input.data(), dtype::f32, reinterpret_cast<std::byte*>(work.values.data()), drawn.size());
  work.output.assign(work.input.size(), std::byte{0x7f});  // must be overwritten
  work.group_rows.resize(experts);
  work.group_weights.resize(experts);
  std::vector<std::uint32_t> order(experts);
  std::iota(order.begin(), order.end(), 0U);
  std::vector<std::uint32_t> row_order(rows);
  std::iota(row_order.begin(), row_order.end(), 0U);
  std::shuffle(row_order.begin(), row_order.end(), random);
  std::uniform_real_distribution<float> weight{-1.0F, 1.0F};
  for (auto row : row_order) {
    std::shuffle(order.begin(), order.end(), random);
    for (std::uint32_t i = 0; i < per_row; ++i) {
      work.group_rows[order[i]].push_back(row);
      work.group_weights[order[i]].push_back(weight(random));
    }
  }
  std::size_t row_bytes = shape.hidden * bytes_per_element(type);
  for (std::uint32_t begin = 0, length = 1; begin < rows; begin += length, length = 2 * length + 1) {
    work.segments.push_back({.input = work.input.data() + begin * row_bytes,
                             .output = work.output.data() + begin * row_bytes,
                             .rows = std::min(length, rows - begin)});
  }
  for (std::uint32_t e = 0; e < experts; ++e) {
    work.groups.push_back({.slot = {e}, .rows = work.group_rows[e], .gate_weights = work.group_weights[e]});
  }
  work.reports.resize(experts);
  return work;
}

namespace {

std::span<const float> row_of(const sample_batch& work, std::uint32_t row) {
  return std::span(work.values).subspan(std::size_t{row} * work.shape.hidden, work.shape.hidden);
}

}  // namespace

std::vector<double> expected_row(const sample_batch& work, std::span<const sample_expert> experts, std::uint32_t row) {
  std::vector<double> sum(work.shape.hidden);
  for (std::size_t g = 0; g < work.group_rows.size(); ++g) {
    for (std::size_t i = 0; i < work.group_rows[g].size(); ++i) {
      if (work.group_rows[g][i] != row) continue;
      auto y = expected_output(experts[g], row_of(work, row));
      for (std::size_t c = 0; c < sum.size(); ++c) sum[c] += double{work.group_weights[g][i]} * y[c];
    }
  }
  return sum;
}

double expected_norm(const sample_batch& work, std::span<const sample_expert> experts, std::size_t group) {
  double sum = 0;
  for (std::size_t i = 0; i < work.group_rows[group].size(); ++i) {
    auto y = expected_output(experts[group], row_of(work, work.group_rows[group][i]));
    sum += std::abs(double{work.group_weights[group][i]}) *
           std::sqrt(std::inner_product(y.begin(), y.end(), y.begin(), 0.0));
  }
  return sum;
}

}  // namespace troupe::compute::test
