// Launches that begin before the one before them in the stream has ended, on cards that can (compute capability 9.0).
#pragma once

#include <cuda_runtime_api.h>

namespace troupe::compute::cuda {

// A launch that may begin early does so once every block of the one before has called `let_next_launch_begin` (or has
// ended), and must not look at what that one wrote until `wait_for_previous_launch`. Older cards have none.
__device__ inline void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class Work>
cudaError_t launch_early(void (*kernel)(Work), unsigned blocks, unsigned threads, std::size_t shared_bytes,
                         cudaStream_t stream, const Work& work) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, work);
}

}  // namespace troupe::compute::cuda
