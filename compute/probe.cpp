#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include <fmt/format.h>

#include "compute/bundle_plan.hpp"
#include "compute/device.hpp"
#include "compute/reference_math.hpp"

namespace troupe::compute {
namespace {

// Largest difference from the plain loops, as a share of the largest expected value: rounding to bf16 of weights, rows
// and the values between the products moves a sum by less than this, a wrong or missing weight by more.
double tolerance_of(dtype type) { return type == dtype::bf16 ? 2e-2 : 1e-4; }

// A fixed row with values of all signs and sizes around one, exact in bf16.
std::vector<float> known_row(std::uint32_t hidden) {
  std::vector<float> row(hidden);
  std::uint32_t state = 0x9e3779b9U;
  for (auto& value : row) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(static_cast<int>(state >> 24) - 128) / 64.0F;
  }
  return row;
}

double through(dtype type, double value) {
  auto narrow = static_cast<float>(value);
  return type == dtype::bf16 ? bf16_to_f32(f32_to_bf16(narrow)) : narrow;
}

// Weights are asked for output by output, and a whole row is dequantised much faster than one weight at a time.
class cached_row {
 public:
  explicit cached_row(const matrix_piece& piece) : piece_(piece), values_(piece.in) {}
  float at(const std::byte* bundle, std::uint32_t o, std::uint32_t i) {
    if (o != row_) {
      row_ = o;
      read_row(piece_, bundle, o, values_.data());
    }
    return values_[i];
  }

 private:
  const matrix_piece& piece_;
  std::vector<float> values_;
  std::uint32_t row_{~0U};
};

}  // namespace

result<probe_sample> make_probe(const model::bundle_layout& layout, std::span<const std::byte> bundle, dtype type) {
  auto plan = plan_bundle(layout, bundle.size());
  if (!plan) return fail(plan.error());
  probe_sample sample{.id = layout.id, .shape = layout.shape, .type = type, .row = known_row(layout.shape.hidden)};
  std::array<cached_row, 3> rows{cached_row{plan->gate}, cached_row{plan->up}, cached_row{plan->down}};
  const std::array<const matrix_piece*, 3> biases{&plan->gate_bias, &plan->up_bias, &plan->down_bias};
  auto weight = [&](int part, std::uint32_t o, std::uint32_t i) {
    return static_cast<float>(through(type, rows[part].at(bundle.data(), o, i)));
  };
  auto bias = [&](int part, std::uint32_t o) {
    return biases[part]->out == 0 ? 0.0 : double{read_element(*biases[part], bundle.data(), o, 0)};
  };
  sample.expected.resize(layout.shape.hidden);
  reference_expert(
      layout.shape, sample.row, weight, bias, [&](double h) { return through(type, h); }, sample.expected);
  return sample;
}

result<void> run_probe(device& d, slot_index slot, const probe_sample& sample) {
  auto type = d.info().type;
  std::size_t hidden = sample.row.size();
  std::vector<std::byte> input(hidden * bytes_per_element(type));
  std::vector<std::byte> output(input.size());
  convert(dtype::f32, reinterpret_cast<const std::byte*>(sample.row.data()), type, input.data(), hidden);
  const std::uint32_t row = 0;
  const float gate_weight = 1.0F;
  const segment only{.input = input.data(), .output = output.data(), .rows = 1};
  const expert_group group{.slot = slot, .rows = {&row, 1}, .gate_weights = {&gate_weight, 1}};
  group_report report;
  auto done = d.run({.shape = sample.shape, .segments = {&only, 1}, .groups = {&group, 1}}, {&report, 1});
  if (!done) return done;
  std::vector<float> values(hidden);
  convert(type, output.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), hidden);
  double peak = 0;
  for (double value : sample.expected) peak = std::max(peak, std::abs(value));
  double allowed = tolerance_of(type) * std::max(peak, 1e-30);
  for (std::size_t c = 0; c < hidden; ++c) {
    double difference = std::abs(values[c] - sample.expected[c]);
    if (difference <= allowed) continue;  // false for NaN as well
    return fail(errc::corrupt,
                fmt::format("probe of expert {} in slot {}: output {} is {}, expected {} within {}; the slot is not "
                            "served, load the expert again",
                            to_string(sample.id), slot.value, c, values[c], sample.expected[c], allowed));
  }
  return {};
}

namespace {

// [n, H] f32: what the expert in the slot makes of the rows.
result<std::vector<float>> outputs_of(device& d, const model::expert_shape& shape, slot_index slot,
                                      std::span<const std::byte> input) {
  const auto type = d.info().type;
  const auto rows = static_cast<std::uint32_t>(input.size() / (shape.hidden * bytes_per_element(type)));
  std::vector<std::byte> output(input.size());
  std::vector<std::uint32_t> numbers(rows);
  std::iota(numbers.begin(), numbers.end(), 0U);
  const std::vector<float> gate_weights(rows, 1.0F);
  const segment only{.input = input.data(), .output = output.data(), .rows = rows};
  const expert_group group{.slot = slot, .rows = numbers, .gate_weights = gate_weights};
  group_report report;
  auto done = d.run({.shape = shape, .segments = {&only, 1}, .groups = {&group, 1}}, {&report, 1});
  if (!done) return fail(done.error());
  std::vector<float> values(std::size_t{rows} * shape.hidden);
  convert(type, output.data(), dtype::f32, reinterpret_cast<std::byte*>(values.data()), values.size());
  return values;
}

}  // namespace

result<output_difference> compare_slots(device& d, const model::expert_shape& shape, slot_index first,
                                        slot_index second, std::span<const std::byte> rows) {
  const auto a = outputs_of(d, shape, first, rows);
  if (!a) return fail(a.error());
  const auto b = outputs_of(d, shape, second, rows);
  if (!b) return fail(b.error());
  output_difference found;
  for (std::size_t begin = 0; begin < a->size(); begin += shape.hidden) {
    double norm = 0, difference = 0;
    for (std::size_t c = begin; c < begin + shape.hidden; ++c) {
      norm += double{(*a)[c]} * (*a)[c];
      difference += (double{(*b)[c]} - (*a)[c]) * (double{(*b)[c]} - (*a)[c]);
    }
    const double of_row = norm > 0 ? std::sqrt(difference / norm) : (difference > 0 ? 1 : 0);
    ++found.rows;
    found.mean += of_row;
    found.largest = std::max(found.largest, of_row);
  }
  found.mean /= found.rows;
  return found;
}

result<void> probe(device& d, slot_index slot, const model::bundle_layout& layout, std::span<const std::byte> bundle) {
  auto sample = make_probe(layout, bundle, d.info().type);
  if (!sample) return fail(sample.error());
  return run_probe(d, slot, *sample);
}

}  // namespace troupe::compute
