// How much of a GPU's memory experts take: for the device itself, and for those who plan without one (`troupe model
// plan`). Any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

[[nodiscard]] constexpr std::size_t gpu_aligned(std::size_t bytes) {
  constexpr std::size_t alignment = 256;
  return (bytes + alignment - 1) / alignment * alignment;
}

// A batch goes through in passes that need at most about this much beside the slots, in each of two pieces: as much of
// the device as it can spare, since each pass reads the weights again.
[[nodiscard]] std::size_t gpu_pass_bytes(std::uint64_t device_bytes);

struct gpu_memory_need {
  std::size_t slot_bytes{};  // one slot that holds the largest expert of the model, as device::slot_bytes
  // What the device takes beside its slots, at most (device_info::scratch_bytes): rows on their way in and out, and
  // what stands between the two products.
  std::size_t scratch_bytes{};
};

// Of a GPU with so many bytes. `type`: f32 or bf16.
[[nodiscard]] gpu_memory_need gpu_memory_of(const model::description& model, dtype type, std::uint64_t device_bytes);

}  // namespace troupe::compute
