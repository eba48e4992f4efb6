// A launch that begins before the one before it in the stream has ended, on cards that can (hopper.cuh,
// wait_for_previous_launch).
#pragma once

#include <cuda_runtime_api.h>

namespace troupe::compute::cuda {

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
