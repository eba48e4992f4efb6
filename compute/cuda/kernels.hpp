// Launches for any card. Asynchronous on `stream`; errors show in cudaGetLastError.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {

[[nodiscard]] constexpr std::size_t element_bytes(dtype type) { return type == dtype::f32 ? 4 : 2; }

// x[a] = rows[row_of[a]], zeros behind `hidden`: [A, first_inputs].
void gather(const products_work& work, std::byte* x, cudaStream_t stream);
// h[a] = act(products of a (+ biases)), zeros behind `width`: products [A, first_outputs], h [A, second_inputs]. Both
// may be the same memory when not gated.
void activate(const products_work& work, const std::byte* products, std::byte* h, cudaStream_t stream);
// begins_early: launch.cuh.
void combine(const combine_work& work, bool begins_early, cudaStream_t stream);

}  // namespace troupe::compute::cuda
