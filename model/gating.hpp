// From router logits to chosen experts and their weights, exactly as each family defines it. Pure functions, fp32
// inside (as transformers 4.57 computes them); any thread. The logits themselves (x W^T + b) are the caller's product.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "model/description.hpp"

namespace troupe::model {

// Parameters of one layer's gate, in f32.
struct gate_parameters {
  std::vector<float> weight;           // [N, H]
  std::vector<float> bias;             // [N] or empty
  std::vector<float> correction_bias;  // [N] or empty
};

struct routing {
  std::uint32_t top_k{};
  std::vector<std::int32_t> expert_ids;  // [T, k], best first; the choice before capacity
  std::vector<float> weights;            // [T, k]
  std::vector<std::uint8_t> dropped;     // [T, k]: 1 where the capacity dropped the assignment; empty when dropless
};

// Which experts may be chosen; empty span: all. mask[e] != 0 means present.
// A masked expert is taken out where the family's own definition loses it: for `softmax` before the softmax (the
// remaining probabilities are those of a model that never had the expert), for `sigmoid` and `softmax_of_top_k` before
// the choice.
using expert_mask = std::span<const std::uint8_t>;

// logits [T, N] row-major. @pre logits.size() == T * N; mask is empty or N long.
// unavailable when fewer than k experts can be chosen under the mask and the group rule.
[[nodiscard]] result<routing> choose_experts(const gating& gate, std::span<const float> correction_bias,
                                             std::span<const float> logits, expert_mask mask = {});

// Plain x W^T + b with f64 accumulation, for tests: hidden [T, H] -> logits [T, N].
[[nodiscard]] std::vector<float> reference_logits(const gating& gate, const gate_parameters& parameters,
                                                  std::span<const float> hidden, std::uint32_t hidden_size);

}  // namespace troupe::model
