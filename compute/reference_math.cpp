#include "compute/reference_math.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::compute {

double reference_activation(model::activation act, double gate, double up) {
  switch (act) {
    case model::activation::swiglu:
      return gate / (1.0 + std::exp(-gate)) * up;
    case model::activation::clamped_glu: {
      double g = std::min(gate, 7.0);
      double u = std::clamp(up, -7.0, 7.0);
      return (u + 1.0) * g / (1.0 + std::exp(-1.702 * g));
    }
    case model::activation::relu:
      return std::max(gate, 0.0);
    case model::activation::gelu_erf:
      return 0.5 * gate * std::erfc(-gate / std::sqrt(2.0));
    case model::activation::gelu_tanh:
      return 0.5 * gate *
             (1.0 + std::tanh(std::sqrt(2.0 / 3.14159265358979323846) * (gate + 0.044715 * gate * gate * gate)));
  }
  return 0.0;
}

}  // namespace troupe::compute
