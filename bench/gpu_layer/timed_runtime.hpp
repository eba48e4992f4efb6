// A gpu_runtime that hands everything on to another one and can time what the device computes between a batch's upload
// and its download: launches included, copies of rows and the host's own work not.
#pragma once

#include <memory>

#include "compute/gpu_runtime.hpp"

namespace troupe::bench {

// Outlives the runtime. While `is_on`, the stream is drained on both sides of a pass.
struct device_stopwatch {
  bool is_on{};
  double seconds{};  // since it was last set to 0
};

[[nodiscard]] std::unique_ptr<compute::gpu_runtime> make_timed_runtime(std::unique_ptr<compute::gpu_runtime> inner,
                                                                       std::shared_ptr<device_stopwatch> watch);

}  // namespace troupe::bench
