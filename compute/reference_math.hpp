// One expert in plain loops with f64 sums, straight from the definition in model/description.hpp. What the probe and
// the reference device compare everything with. Any thread.
#pragma once

#include <span>
#include <vector>

#include "model/description.hpp"

namespace troupe::compute {

[[nodiscard]] double reference_activation(model::activation act, double gate, double up);

// weight(part, o, i) and bias(part, o) of an expert; part 0 = gate, 1 = up, 2 = down. Writes y [hidden].
// `h_of` rounds the values between the products as the compared device does; identity for f32.
template <class Weight, class Bias, class Round>
void reference_expert(const model::expert_shape& shape, std::span<const float> x, Weight weight, Bias bias, Round round,
                      std::span<double> y) {
  std::vector<double> h(shape.width);
  bool gated = model::is_gated(shape.act);
  for (std::uint32_t o = 0; o < shape.width; ++o) {
    double gate = gated ? bias(0, o) : 0.0;
    double up = bias(1, o);
    for (std::uint32_t i = 0; i < shape.hidden; ++i) {
      if (gated) gate += double{weight(0, o, i)} * x[i];
      up += double{weight(1, o, i)} * x[i];
    }
    h[o] = round(gated ? reference_activation(shape.act, gate, up) : reference_activation(shape.act, up, 0.0));
  }
  for (std::uint32_t o = 0; o < shape.hidden; ++o) {
    double sum = bias(2, o);
    for (std::uint32_t i = 0; i < shape.width; ++i) sum += double{weight(2, o, i)} * h[i];
    y[o] = sum;
  }
}

}  // namespace troupe::compute
