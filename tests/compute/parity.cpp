#include "tests/compute/parity.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::compute::test {
namespace {

using model::activation;

// Weights of an expert above which one row in f64 takes a noticeable time.
constexpr std::size_t large_expert = 10'000'000;

std::vector<parity_case> published_cases() {
  using enum stored_form;
  return {
      {"mixtral", {4096, 14336, activation::swiglu, false}, separate, dtype::bf16, 2, 2, 5},
      {"qwen2_moe", {2048, 1408, activation::swiglu, false}, separate, dtype::bf16, 6, 4, 33},
      {"qwen3_moe", {2048, 768, activation::swiglu, false}, separate, dtype::bf16, 8, 8, 33},
      {"olmoe", {2048, 1024, activation::swiglu, false}, separate, dtype::bf16, 8, 8, 64},
      {"deepseek_v2", {5120, 1536, activation::swiglu, false}, separate, dtype::bf16, 4, 3, 17},
      {"deepseek_v3", {7168, 2048, activation::swiglu, false}, separate, dtype::bf16, 3, 2, 17},
      {"gpt_oss", {2880, 2880, activation::clamped_glu, true}, interleaved_transposed, dtype::bf16, 4, 4, 17},
      {"deepseek_v3, fp8", {7168, 2048, activation::swiglu, false}, separate, dtype::f8_e4m3, 3, 2, 17},
      // 2880 has no sixteenth of whole blocks.
      {"gpt_oss, mxfp4", {3072, 2560, activation::clamped_glu, true}, interleaved, dtype::u8, 4, 4, 17},
      {"switch", {768, 3072, activation::relu, false}, separate, dtype::f32, 4, 1, 64},
      {"vmoe", {768, 3072, activation::gelu_erf, true}, transposed, dtype::f32, 4, 2, 64},
  };
}

std::vector<parity_case> edge_cases() {
  using enum stored_form;
  return {
      {"odd sizes", {7, 5, activation::swiglu, false}, separate, dtype::f16, 5, 3, 47},
      {"odd, biases", {33, 130, activation::clamped_glu, true}, interleaved, dtype::f32, 5, 3, 47},
      {"odd, fp8", {131, 67, activation::swiglu, false}, separate, dtype::f8_e4m3, 5, 3, 17},
      {"odd, plain", {131, 67, activation::gelu_tanh, true}, separate, dtype::bf16, 5, 3, 17},
      {"1 x 1", {1, 1, activation::relu, true}, separate, dtype::f32, 2, 1, 3},
      {"no rows for some", {72, 48, activation::swiglu, false}, separate, dtype::bf16, 12, 1, 3},
      {"one row", {72, 448, activation::swiglu, false}, separate, dtype::bf16, 5, 3, 1},
      {"many rows", {136, 128, activation::swiglu, false}, separate, dtype::bf16, 2, 1, 560},
      {"many rows, biases", {72, 192, activation::clamped_glu, true}, interleaved, dtype::bf16, 2, 1, 560},
      {"many rows, plain", {136, 144, activation::gelu_tanh, true}, separate, dtype::bf16, 2, 1, 560},
      {"4,096 rows", {64, 48, activation::swiglu, false}, separate, dtype::bf16, 8, 2, 4096},
  };
}

std::size_t weights_of(const model::expert_shape& shape) {
  return std::size_t{model::is_gated(shape.act) ? 3U : 2U} * shape.hidden * shape.width;
}

}  // namespace

std::vector<parity_case> parity_cases(std::uint32_t divisor) {
  auto cases = published_cases();
  for (auto& c : cases) {
    c.shape.hidden /= divisor;
    c.shape.width /= divisor;
  }
  std::ranges::move(edge_cases(), std::back_inserter(cases));
  return cases;
}

result<parity_outcome> compare_with_f64(device& fresh, dtype type, const parity_case& c) {
  if (auto room = fresh.reserve(c.experts, fresh.slot_bytes(c.shape)); !room) return fail(room.error());
  std::vector<sample_expert> experts;
  for (std::uint32_t e = 0; e < c.experts; ++e) {
    experts.push_back(make_sample(c.shape, c.stored, c.form, 100 + e));
    if (auto done = fresh.load({e}, experts[e].layout, experts[e].bundle); !done) return fail(done.error());
  }
  auto work = make_batch(c.shape, type, c.rows, c.experts, c.per_row, c.rows);
  if (auto done = fresh.run(work.view(), work.reports); !done) return fail(done.error());

  parity_outcome outcome;
  const bool is_large = weights_of(c.shape) > large_expert;
  const auto stride = std::max(1U, c.rows / (is_large ? 3 : 16));
  const auto ours = work.outputs();
  double peak = 0;
  double worst = 0;
  for (std::uint32_t row = 0; row < c.rows; row += stride) {
    const auto expected = expected_row(work, experts, row);
    for (std::size_t column = 0; column < expected.size(); ++column) {
      const double value = ours[std::size_t{row} * c.shape.hidden + column];
      if (!std::isfinite(value)) {
        return fail(errc::corrupt, "row " + std::to_string(row) + " column " + std::to_string(column) + " is " +
                                       std::to_string(value));
      }
      peak = std::max(peak, std::abs(expected[column]));
      worst = std::max(worst, std::abs(value - expected[column]));
    }
  }
  outcome.share = peak > 0 ? worst / peak : INFINITY;
  if (weights_of(c.shape) * c.rows * c.per_row > 20 * large_expert) return outcome;
  for (std::size_t g = 0; g < work.groups.size(); ++g) {
    const double norm = expected_norm(work, experts, g);
    const double off = std::abs(work.reports[g].weighted_norm_sum - norm);
    if (off > 0) outcome.norm_share = std::max(outcome.norm_share, norm > 0 ? off / norm : INFINITY);
  }
  return outcome;
}

}  // namespace troupe::compute::test
