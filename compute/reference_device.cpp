// The reference device: plain loops over f32 weights. Slow and obvious on purpose.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compute/device.hpp"
#include "compute/reference_math.hpp"
#include "compute/slots.hpp"

namespace troupe::compute {
namespace {

class reference_device final : public device {
 public:
  explicit reference_device(const cpu_options& options) : type_(options.type) {}

  device_info info() const override {
    return {.name = "reference",
            .description = fmt::format("{}, plain loops, f32 weights, 1 thread", processor_name()),
            .type = type_,
            .threads = 1,
            .free_bytes = std::nullopt,
            .scratch_bytes = 0};
  }

  std::size_t slot_bytes(const model::expert_shape& shape) const override { return slots_.packed(shape).bytes(); }
  result<void> reserve(std::uint32_t slots, std::size_t bytes_per_slot) override {
    return slots_.reserve(slots, bytes_per_slot);
  }
  result<void> load(slot_index slot, const model::bundle_layout& layout, std::span<const std::byte> bundle) override {
    return slots_.load(slot, layout, bundle);
  }
  result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                             std::span<std::byte> target) const override {
    return slots_.export_bundle(slot, layout, target);
  }
  void unload(slot_index slot) override { slots_.unload(slot); }

  result<void> run(const batch& work, std::span<group_report> reports) override {
    auto started = std::chrono::steady_clock::now();
    const auto holds = [&](slot_index slot) { return slots_.find(slot, work.shape) != nullptr; };
    if (auto fine = check_batch(work, reports, holds, type_, rows_); !fine) return fine;
    std::size_t hidden = work.shape.hidden;
    std::vector<float> sums(rows_.inputs.size() * hidden);
    std::vector<float> x(hidden);
    std::vector<double> y(hidden);
    for (std::size_t g = 0; g < work.groups.size(); ++g) {
      const auto& group = work.groups[g];
      double norms = 0;
      for (std::size_t i = 0; i < group.rows.size(); ++i) {
        convert(type_, rows_.inputs[group.rows[i]], dtype::f32, reinterpret_cast<std::byte*>(x.data()), hidden);
        compute(slots_.find(group.slot, work.shape), work.shape, x, y);
        double squares = 0;
        float* sum = sums.data() + group.rows[i] * hidden;
        for (std::size_t c = 0; c < hidden; ++c) {
          squares += y[c] * y[c];
          sum[c] += group.gate_weights[i] * static_cast<float>(y[c]);
        }
        norms += std::abs(double{group.gate_weights[i]}) * std::sqrt(squares);
      }
      reports[g].weighted_norm_sum = norms;
    }
    for (std::size_t r = 0; r < rows_.outputs.size(); ++r) {
      convert(dtype::f32, reinterpret_cast<const std::byte*>(sums.data() + r * hidden), type_, rows_.outputs[r],
              hidden);
    }
    std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
    share_seconds(taken.count(), work, reports);
    return {};
  }

 private:
  // Weights lie as the rows form packs them: panels of outputs, each output with its inputs side by side.
  void compute(const std::byte* slot, const model::expert_shape& shape, std::span<const float> x,
               std::span<double> y) const {
    auto expert = slots_.packed(shape);
    auto weight = [&](int part, std::uint32_t o, std::uint32_t i) {
      std::uint32_t panel = o / panel_width;
      const auto& matrix = part == 2 ? expert.second : expert.first;
      std::size_t offset = part == 2 ? expert.second_offset(panel) : expert.first_offset(panel);
      if (part == 1 && expert.parts() == 2) offset += expert.first.bytes_of(panel);
      return value_at(slot + offset, std::size_t{o % panel_width} * matrix.inputs() + i);
    };
    auto bias = [&](int part, std::uint32_t o) {
      if (!shape.has_bias) return 0.0;
      std::size_t offset = part == 0   ? expert.gate_bias_offset()
                           : part == 1 ? expert.up_bias_offset()
                                       : expert.down_bias_offset();
      return double{value_at(slot + offset, o)};
    };
    reference_expert(
        shape, x, weight, bias, [](double h) { return h; }, y);
  }

  static float value_at(const std::byte* base, std::size_t index) {
    float value = 0;
    std::memcpy(&value, base + index * sizeof value, sizeof value);
    return value;
  }

  dtype type_;
  slot_table slots_{dtype::f32, panel_form::rows};
  batch_rows rows_;
};

}  // namespace

result<std::unique_ptr<device>> make_reference_device(const cpu_options& options) {
  if (auto fine = check_options(options); !fine) return fail(fine.error());
  return std::make_unique<reference_device>(options);
}

}  // namespace troupe::compute
