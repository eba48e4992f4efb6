// A gpu_runtime in plain loops over host memory, for everything around the launches: grouping, offsets, sizes, errors.
// It counts what it was asked for and fails on demand.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::test {

// Outlives the device, so that a test can look at it and change it.
struct loop_gpu_state {
  std::size_t memory_max{std::size_t{1} << 32};
  std::size_t allocated{};       // device memory, now
  std::size_t host_allocated{};  // now
  int launches{};                // gather, multiply, activate, combine
  int multiplications{};
  bool fails{};  // the next finish of the compute stream
};

[[nodiscard]] std::unique_ptr<gpu_runtime> make_loop_gpu(std::shared_ptr<loop_gpu_state> state);

}  // namespace troupe::compute::test
