#include "compute/shared_expert.hpp"

#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/elementwise.hpp"
#include "compute/expert_engine.hpp"
#include "compute/packing.hpp"

namespace troupe::compute {

// A shared expert is an expert that every row chooses: the engine of the routed ones computes it, with the sigmoid of
// its gate as the gate weight.
struct shared_expert::state {
  state(std::shared_ptr<const product_kernel> kernel, std::shared_ptr<work_team> team)
      : engine(std::move(kernel), std::move(team)) {}

  expert_engine engine;
  packed_expert expert;
  scratch_buffer packed;
  std::vector<float> sigmoid_gate;
  // Of one call.
  scratch_buffer narrow_rows;
  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;
  std::vector<std::uint32_t> rows;
  std::vector<float> factors;
};

shared_expert::shared_expert(std::unique_ptr<state> s) : state_(std::move(s)) {}
shared_expert::shared_expert(shared_expert&&) noexcept = default;
shared_expert& shared_expert::operator=(shared_expert&&) noexcept = default;
shared_expert::~shared_expert() = default;

namespace {

matrix_piece f32_rows(std::uint32_t out, std::uint32_t in, std::size_t offset) {
  return {.offset = offset, .type = dtype::f32, .out = out, .in = in, .first = 0, .stride_out = in, .stride_in = 1};
}

result<void> check_sizes(const shared_expert_weights& weights, std::uint32_t hidden, std::uint32_t width,
                         model::activation act) {
  std::size_t size = std::size_t{hidden} * width;
  bool fits = size != 0 && weights.up.size() == size && weights.down.size() == size &&
              weights.gate.size() == (model::is_gated(act) ? size : 0) &&
              (weights.sigmoid_gate.empty() || weights.sigmoid_gate.size() == hidden);
  if (!fits) {
    return fail(
        errc::invalid_request,
        fmt::format("a shared expert of hidden {} and width {} with gate {}, up {}, down {} and sigmoid gate {} "
                    "weights; check the checkpoint's shapes",
                    hidden, width, weights.gate.size(), weights.up.size(), weights.down.size(),
                    weights.sigmoid_gate.size()));
  }
  return {};
}

float sigmoid_of_product(const float* x, const std::vector<float>& gate) {
  double sum = 0;
  for (std::size_t i = 0; i < gate.size(); ++i) sum += double{x[i]} * gate[i];
  return static_cast<float>(1.0 / (1.0 + std::exp(-sum)));
}

}  // namespace

result<shared_expert> shared_expert::make(const shared_expert_weights& weights, std::uint32_t hidden,
                                          std::uint32_t width, model::activation act, dtype type,
                                          std::shared_ptr<work_team> team) {
  if (auto fine = check_sizes(weights, hidden, width, act); !fine) return fail(fine.error());
  auto kernel = make_product_kernel(type);
  if (!kernel) return fail(kernel.error());
  auto made = std::make_unique<state>(*kernel, std::move(team));
  made->expert =
      packed_expert::of({.hidden = hidden, .width = width, .act = act, .has_bias = false}, type, (*kernel)->form());
  made->sigmoid_gate.assign(weights.sigmoid_gate.begin(), weights.sigmoid_gate.end());
  auto bytes_of = [](std::span<const float> values) { return reinterpret_cast<const std::byte*>(values.data()); };
  const auto& expert = made->expert;
  std::byte* slot = made->packed.take(expert.bytes());
  auto first = f32_rows(width, hidden, 0);
  for (std::uint32_t p = 0; p < expert.first.panels(); ++p) {
    std::byte* target = slot + expert.first_offset(p);
    if (expert.parts() == 2) {
      pack_panel(expert.first, p, first, bytes_of(weights.gate), target);
      target += expert.first.bytes_of(p);
    }
    pack_panel(expert.first, p, first, bytes_of(weights.up), target);
  }
  auto second = f32_rows(hidden, width, 0);
  for (std::uint32_t p = 0; p < expert.second.panels(); ++p) {
    pack_panel(expert.second, p, second, bytes_of(weights.down), slot + expert.second_offset(p));
  }
  return shared_expert(std::move(made));
}

result<void> shared_expert::add_to(const float* x, std::uint32_t rows, float* y) {
  auto& s = *state_;
  std::size_t hidden = s.expert.shape.hidden;
  bool narrow = s.engine.kernel().type() == dtype::bf16;
  std::byte* narrow_rows = narrow ? s.narrow_rows.take(rows * hidden * 2) : nullptr;
  s.inputs.resize(rows);
  s.outputs.resize(rows);
  s.rows.resize(rows);
  s.factors.resize(rows);
  for (std::uint32_t r = 0; r < rows; ++r) {
    const float* row = x + r * hidden;
    if (narrow) narrow_to_bf16(row, hidden, narrow_rows + r * hidden * 2);
    s.inputs[r] = narrow ? narrow_rows + r * hidden * 2 : reinterpret_cast<const std::byte*>(row);
    s.outputs[r] = reinterpret_cast<std::byte*>(y + r * hidden);
    s.rows[r] = r;
    s.factors[r] = s.sigmoid_gate.empty() ? 1.0F : sigmoid_of_product(row, s.sigmoid_gate);
  }
  const engine_group group{.slot = s.packed.data(), .rows = s.rows, .weights = s.factors};
  double norm = 0;
  return s.engine.run(
      {.expert = &s.expert, .inputs = s.inputs, .outputs = s.outputs, .mode = row_output::add, .groups = {&group, 1}},
      {&norm, 1});
}

std::size_t shared_expert::bytes() const {
  return state_->packed.bytes() + state_->narrow_rows.bytes() + state_->engine.scratch_bytes();
}

}  // namespace troupe::compute
