// How long one MoE layer's experts take on a device of the GPU kind, whatever runs it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "bench/gpu_layer/timed_runtime.hpp"
#include "compute/device.hpp"

namespace troupe::bench {

struct layer_size {
  std::uint32_t hidden{};
  std::uint32_t width{};
  std::uint32_t experts{};
  std::uint32_t top_k{};

  [[nodiscard]] model::expert_shape shape() const { return {hidden, width, model::activation::swiglu, false}; }
};

// Medians.
struct layer_time {
  std::uint32_t rows{};
  double device_seconds{};  // from the rows on the device to their sums on the device
  double whole_seconds{};   // from the rows in host memory to their sums in host memory
  double weight_bytes{};    // of the experts that had rows
  double operations{};      // of the two products
};

// Every row goes to `top_k` of the experts, drawn anew for each number of rows. bf16. The device's errors.
[[nodiscard]] result<std::vector<layer_time>> time_layer(std::unique_ptr<compute::gpu_runtime> runtime,
                                                         const layer_size& size,
                                                         const std::vector<std::uint32_t>& row_counts);

// What loading bundles on another thread costs batches of `rows` rows, from and to host memory.
struct loading_cost {
  double alone_p99_seconds{};
  double loading_p99_seconds{};
  std::uint32_t loads{};  // that ended meanwhile, one after the other into a free slot
};
[[nodiscard]] result<loading_cost> time_while_loading(std::unique_ptr<compute::gpu_runtime> runtime,
                                                      const layer_size& size, std::uint32_t rows);

}  // namespace troupe::bench
