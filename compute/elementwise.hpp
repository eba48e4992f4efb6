// Loops over single values: activations, sums, conversions. Compiled for AVX-512, AVX2 and any x86-64, chosen once at
// run time. Pure functions; any thread. Results of the three differ in the last bits of f32 only.
#pragma once

#include <cstddef>

#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

void widen_bf16(const std::byte* source, std::size_t count, float* target);
// Round to nearest even, NaN stays NaN.
void narrow_to_bf16(const float* source, std::size_t count, std::byte* target);

// In place: gate[i] = the activation of (gate[i], up[i]). Plain kinds take their one product and its bias as `gate` and
// `gate_bias` and read neither `up` nor `up_bias`. Biases are added first; nullptr: none.
void activate(model::activation act, float* gate, const float* up, const float* gate_bias, const float* up_bias,
              std::size_t count);

// sum[i] += weight * (value[i] + bias[i]); returns the sum of the squares of (value[i] + bias[i]). bias may be nullptr.
float add_weighted(float* sum, const float* value, const float* bias, float weight, std::size_t count);

// sum[i] += value[i]
void add(float* sum, const float* value, std::size_t count);

// y[i] = x[i] / sqrt(mean of x squared + epsilon) * weight[i]; y may be x.
void rms_norm(const float* x, const float* weight, float epsilon, std::size_t count, float* y);

// Rotary embedding in place: the pairs (head[i], head[i + half]) are turned by the angles whose cosines and sines are
// given, [half] each.
void rotate_pairs(float* head, const float* cosines, const float* sines, std::size_t half);

}  // namespace troupe::compute
