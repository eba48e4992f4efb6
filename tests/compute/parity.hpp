// In which cases a device is compared with f64, and how far off it is: expert shapes of every family that Troupe reads,
// and batches with odd sizes, experts without rows, one row and 4,096 rows. Shared by the tests and scripts/gpu-check.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {

struct parity_case {
  std::string name;
  model::expert_shape shape;
  stored_form form{stored_form::separate};
  dtype stored{dtype::bf16};
  std::uint32_t experts{};
  std::uint32_t per_row{};
  std::uint32_t rows{};
};

// Published sizes divided by `divisor`, so that plain loops can do them too; the edge cases are small as they are.
[[nodiscard]] std::vector<parity_case> parity_cases(std::uint32_t divisor);

// What a device may be off, as a share of the largest expected value.
[[nodiscard]] constexpr double tolerance_of(dtype type) { return type == dtype::f32 ? 2e-5 : 2e-2; }

struct parity_outcome {
  double share{};       // largest difference of an output from f64, by the largest output
  double norm_share{};  // largest difference of a weighted norm sum, by itself; 0 where f64 would take too long
};
// Fills a device that has no slots yet and runs one batch; f64 checks up to 16 rows of it, fewer of large experts.
// The device's own errors; corrupt for an output that is not finite.
[[nodiscard]] result<parity_outcome> compare_with_f64(device& fresh, dtype type, const parity_case& c);

}  // namespace troupe::compute::test
