// Launches for any card. Asynchronous on `stream`; errors show in cudaGetLastError.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {

[[nodiscard]] constexpr std::size_t element_bytes(dtype type) { return type == dtype::f32 ? 4 : 2; }

// x[a] = rows[row_of[a]], zeros behind `hidden`.
struct gather_work {
  dtype type{dtype::bf16};
  const std::byte* rows{};        // [R, hidden]
  const std::uint32_t* row_of{};  // [A]
  std::byte* x{};                 // [A, stride]
  std::uint32_t assignments{};
  std::uint32_t hidden{};
  std::uint32_t stride{};
};

// h[a] = act(products of a (+ biases)), zeros behind `width`. Both may be the same memory when not gated.
struct activation_work {
  expert_form form;
  const std::byte* products{};              // [A, first_outputs]
  const std::uint32_t* group_of{};          // [A]
  const std::byte* const* slot_of_group{};  // [G]
  std::byte* h{};                           // [A, second_inputs]
  std::uint32_t assignments{};
};

void gather(const gather_work& work, cudaStream_t stream);
void activate(const activation_work& work, cudaStream_t stream);
// begins_early: launch.cuh.
void combine(const combine_work& work, bool begins_early, cudaStream_t stream);

}  // namespace troupe::compute::cuda
