// Passes over a row of logits. Pure functions, any thread. A vocabulary has 150,000 tokens, and every token of every
// stream makes such passes: they are written so that the compiler vectorises them.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router {

// internal, naming the first token whose logit is NaN or infinite.
[[nodiscard]] result<void> check_finite(std::span<const float> logits);

// The largest logit's token; the lower of equals. @pre not empty, finite
[[nodiscard]] token_number largest_logit(std::span<const float> logits);

// sum of exp((logit - offset) * scale) in f64 over f32 terms (relative error below 1e-6).
// @pre finite; no term overflows: offset is the largest logit, scale >= 0
[[nodiscard]] double sum_of_exponentials(std::span<const float> logits, float offset, float scale);

// The k largest, largest first; the lower id of equals first. O(V) for k << V.
[[nodiscard]] std::vector<token_number> largest_logits(std::span<const float> logits, std::uint32_t k);

// log(sum of exp(logits)): what is taken off a logit to get its logprob. @pre finite, not empty
[[nodiscard]] double log_normaliser(std::span<const float> logits);

}  // namespace troupe::router
