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
    append(role, sample_.layout.stored, transposed ? std::vector{in, out} : std::vector{out, in}, transposed, order);
  }
  void bias(tensor_role role, dtype type, const std::vector<double>& values) {
    append(role, type, {values.size()}, false, values);
  }
  void bytes(tensor_role role, dtype type, std::vector<std::uint64_t> shape, bool transposed,
             std::span<const std::byte> stored) {
    std::size_t begin = sample_.bundle.size();
    sample_.bundle.insert(sample_.bundle.end(), stored.begin(), stored.end());
    sample_.layout.tensors.push_back({.role = role,
                                      .name = "tensor." + std::to_string(static_cast<int>(role)),
                                      .type = type,
                                      .shape = std::move(shape),
                                      .transposed = transposed,
                                      .file = 0,
                                      .offset = begin,
                                      .bytes = stored.size()});
  }

 private:
  void append(tensor_role role, dtype type, std::vector<std::uint64_t> shape, bool transposed,
              const std::vector<double>& values) {
    std::vector<std::byte> stored(values.size() * bytes_per_element(type));
    for (std::size_t i = 0; i < values.size(); ++i) {
      auto value = static_cast<float>(values[i]);
      convert(dtype::f32, reinterpret_cast<const std::byte*>(&value), type, stored.data() + i * bytes_per_element(type),
              1);
    }
    bytes(role, type, std::move(shape), transposed, stored);
  }

  sample_expert& sample_;
};

// Writes numbers and scales of a matrix and returns the weights that they make, [out][in].
class quantised_writer {
 public:
  quantised_writer(bundle_writer& bundle, const sample_expert& sample, std::mt19937& random)
      : bundle_(bundle), layout_(sample.layout), random_(random) {}

  // Weights of about `size`.
  std::vector<double> matrix(tensor_role role, std::uint64_t out, std::uint64_t in, double size) {
    const bool is_mxfp4 = layout_.stored == dtype::u8;
    const auto block = layout_.block;
    const std::uint64_t rows = (out + block.outputs - 1) / block.outputs;
    const std::uint64_t columns = (in + block.inputs - 1) / block.inputs;
    std::vector<std::byte> numbers(is_mxfp4 ? out * in / 2 : out * in), scales;
    for (auto& byte : numbers) byte = draw_number(is_mxfp4);
    std::vector<double> factors;
    for (std::uint64_t b = 0; b < rows * columns; ++b) factors.push_back(draw_scale(is_mxfp4, size, scales));
    std::vector<double> weights;
    for (std::uint64_t o = 0; o < out; ++o) {
      for (std::uint64_t i = 0; i < in; ++i) {
        const auto place = o * in + i;
        const double number = is_mxfp4 ? half(numbers[place / 2], place % 2 == 1) : e4m3(numbers[place]);
        weights.push_back(number * factors[o / block.outputs * columns + i / block.inputs]);
      }
    }
    const auto shape = is_mxfp4 ? std::vector<std::uint64_t>{out, in / 32, 16} : std::vector{out, in};
    bundle_.bytes(role, layout_.stored, shape, false, numbers);
    bundle_.bytes(model::scale_of(role), is_mxfp4 ? dtype::u8 : dtype::f32, {rows, columns}, false, scales);
    return weights;
  }

 private:
  // By the formats' definitions.
  static double e4m3(std::byte stored) {
    const auto bits = std::to_integer<int>(stored);
    const int exponent = bits >> 3 & 15;
    const double magnitude = exponent == 0 ? std::ldexp(bits & 7, -9) : std::ldexp(8 + (bits & 7), exponent - 10);
    return bits < 128 ? magnitude : -magnitude;
  }
  static double half(std::byte stored, bool is_upper) {
    const auto bits = std::to_integer<int>(stored) >> (is_upper ? 4 : 0) & 15;
    const double magnitude = (bits & 6) == 0 ? (bits & 1) / 2.0 : std::ldexp(2 + (bits & 1), (bits >> 1 & 3) - 2);
    return bits < 8 ? magnitude : -magnitude;
  }

  std::byte draw_number(bool is_mxfp4) {
    const auto byte = static_cast<std::byte>(random_() & 0xffU);
    const bool is_nan = (byte & std::byte{0x7f}) == std::byte{0x7f};
    return is_nan && !is_mxfp4 ? std::byte{0x38} : byte;
  }
  // Any numbers have a mean square of 128^2 (e4m3) and 2.9^2 (e2m1).
  double draw_scale(bool is_mxfp4, double size, std::vector<std::byte>& scales) {
    if (is_mxfp4) {
      const int exponent = static_cast<int>(std::lround(std::log2(size / 2.9))) + static_cast<int>(random_() % 3) - 1;
      scales.push_back(static_cast<std::byte>(exponent + 127));
      return std::ldexp(1.0, exponent);
    }
    std::uniform_real_distribution<float> factor{0.5F, 1.5F};
    const float scale = static_cast<float>(size / 128) * factor(random_);
    const auto bytes = std::as_bytes(std::span{&scale, 1});
    scales.insert(scales.end(), bytes.begin(), bytes.end());
    return scale;
  }

  bundle_writer& bundle_;
  const model::bundle_layout& layout_;
  std::mt19937& random_;
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

namespace {

void write_plain(sample_expert& sample, stored_form form, std::mt19937& random) {
  const auto& shape = sample.layout.shape;
  const auto stored = sample.layout.stored;
  std::size_t size = std::size_t{shape.hidden} * shape.width;
  bool gated = model::is_gated(shape.act);
  double first_scale = 1 / std::sqrt(shape.hidden);
  if (gated) sample.gate = draw(size, first_scale, stored, random);
  sample.up = draw(size, first_scale, stored, random);
  sample.down = draw(size, 1 / std::sqrt(shape.width), stored, random);
  bundle_writer writer(sample);
  bool transposed = form == stored_form::transposed || form == stored_form::interleaved_transposed;
  bool interleaved = form == stored_form::interleaved || form == stored_form::interleaved_transposed;
  if (interleaved) {
    writer.matrix(tensor_role::gate_up, 2ULL * shape.width, shape.hidden, transposed,
                  interleave(sample.gate, sample.up, shape.hidden));
  } else {
    if (gated) writer.matrix(tensor_role::gate, shape.width, shape.hidden, transposed, sample.gate);
    writer.matrix(tensor_role::up, shape.width, shape.hidden, transposed, sample.up);
  }
  writer.matrix(tensor_role::down, shape.hidden, shape.width, transposed, sample.down);
}

void write_quantised(sample_expert& sample, stored_form form, std::mt19937& random) {
  const auto& shape = sample.layout.shape;
  // For fp8 one that no size is a multiple of, with several blocks even in small samples.
  sample.layout.block = sample.layout.stored == dtype::u8 ? model::scale_block{1, 32} : model::scale_block{48, 40};
  bundle_writer bundle(sample);
  quantised_writer writer(bundle, sample, random);
  double first_scale = 1 / std::sqrt(shape.hidden);
  if (form == stored_form::interleaved) {
    const auto both = writer.matrix(tensor_role::gate_up, 2ULL * shape.width, shape.hidden, first_scale);
    for (std::size_t o = 0; o < both.size(); o += shape.hidden) {
      auto& part = o / shape.hidden % 2 == 0 ? sample.gate : sample.up;
      part.insert(part.end(), both.begin() + static_cast<std::ptrdiff_t>(o),
                  both.begin() + static_cast<std::ptrdiff_t>(o + shape.hidden));
    }
  } else {
    if (model::is_gated(shape.act)) {
      sample.gate = writer.matrix(tensor_role::gate, shape.width, shape.hidden, first_scale);
    }
    sample.up = writer.matrix(tensor_role::up, shape.width, shape.hidden, first_scale);
  }
  sample.down = writer.matrix(tensor_role::down, shape.hidden, shape.width, 1 / std::sqrt(shape.width));
}

void write_biases(sample_expert& sample, bool interleaved, dtype type, std::mt19937& random) {
  const auto& shape = sample.layout.shape;
  bool gated = model::is_gated(shape.act);
  if (gated) sample.gate_bias = draw(shape.width, 0.5, type, random);
  sample.up_bias = draw(shape.width, 0.5, type, random);
  sample.down_bias = draw(shape.hidden, 0.5, type, random);
  bundle_writer writer(sample);
  if (interleaved) {
    writer.bias(tensor_role::gate_up_bias, type, interleave(sample.gate_bias, sample.up_bias, 1));
  } else {
    if (gated) writer.bias(tensor_role::gate_bias, type, sample.gate_bias);
    writer.bias(tensor_role::up_bias, type, sample.up_bias);
  }
  writer.bias(tensor_role::down_bias, type, sample.down_bias);
}

}  // namespace

sample_expert make_sample(const model::expert_shape& shape, dtype stored, stored_form form, std::uint32_t seed) {
  std::mt19937 random{seed};
  sample_expert sample;
  sample.layout.id = {layer_id::of(3), seed};
  sample.layout.shape = shape;
  sample.layout.stored = stored;
  const bool quantised = stored == dtype::f8_e4m3 || stored == dtype::u8;
  if (quantised) {
    write_quantised(sample, form, random);
  } else {
    write_plain(sample, form, random);
  }
  const bool interleaved = form == stored_form::interleaved || form == stored_form::interleaved_transposed;
  if (shape.has_bias) write_biases(sample, interleaved, quantised ? dtype::bf16 : stored, random);
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
