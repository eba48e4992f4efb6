// The launches that cuBLAS does not have. Asynchronous on `stream`; errors show in cudaGetLastError.
#pragma once

#include <cuda_runtime_api.h>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {

void gather(const gather_work& work, cudaStream_t stream);
void activate(const activation_work& work, cudaStream_t stream);
void combine(const combine_work& work, cudaStream_t stream);

}  // namespace troupe::compute::cuda
