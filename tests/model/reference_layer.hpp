// A whole MoE layer in plain loops with f64 sums, straight from a checkpoint's bytes: what the goldens are compared
// with, without any kernel of the product.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/checkpoint.hpp"
#include "model/gating.hpp"

namespace troupe::model::test {

// One expert on rows [n, H] -> [n, H].
std::vector<float> run_expert(const checkpoint& source, const bundle_layout& layout, std::span<const float> rows);

struct layer_output {
  routing chosen;
  std::vector<float> logits;  // [T, N]
  std::vector<float> routed;  // [T, H]
  std::vector<float> block;   // [T, H], shared experts included
};

// Throws std::runtime_error with the product's message when it refuses.
layer_output run_layer(const checkpoint& source, const moe_layer& layer, std::span<const float> hidden);

}  // namespace troupe::model::test
