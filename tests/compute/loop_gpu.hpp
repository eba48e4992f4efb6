// A gpu_runtime in plain loops over host memory, for everything around the launches: grouping, offsets, sizes, errors.
// It counts what it was asked for and fails on demand.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::test {

// Outlives the device, so that a test can look at it and change it.
struct loop_gpu_state {
  std::size_t memory_max{std::size_t{1} << 32};
  std::size_t allocated{};       // device memory, now
  std::size_t host_allocated{};  // now
  int launches{};                // multiply, combine
  int multiplications{};
  bool fails{};                    // the next finish of the compute stream
  std::function<bool()> breaks{};  // asked by finish of the compute stream; true: the device is lost
  std::atomic<bool> is_lost{false};
  std::mutex memory;  // of the counters above, which two threads change
};

[[nodiscard]] std::unique_ptr<gpu_runtime> make_loop_gpu(std::shared_ptr<loop_gpu_state> state);

}  // namespace troupe::compute::test
