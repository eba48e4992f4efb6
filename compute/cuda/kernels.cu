#include <cuda_bf16.h>

#include "compute/cuda/kernels.hpp"

namespace troupe::compute::cuda {
namespace {

constexpr unsigned threads_per_block = 256;
constexpr unsigned block_width = 64;  // outputs of one panel (packing.hpp)

__device__ float to_float(float value) { return value; }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
template <class T>
__device__ T from_float(float value);
template <>
__device__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

__device__ const float* floats_at(const std::byte* slot, std::uint64_t offset) {
  return reinterpret_cast<const float*>(slot + offset);
}

unsigned blocks_for(unsigned columns) { return (columns + threads_per_block - 1) / threads_per_block; }

// -- gather -------------------------------------------------------------------------------------------------------

// One block per assignment. T is as wide as the row's length allows.
template <class T>
__global__ void gather_rows(const T* rows, const std::uint32_t* row_of, T* x, unsigned hidden, unsigned stride) {
  const std::size_t a = blockIdx.x;
  const T* from = rows + std::size_t{row_of[a]} * hidden;
  T* to = x + a * stride;
  for (unsigned c = threadIdx.x; c < stride; c += blockDim.x) to[c] = c < hidden ? from[c] : T{};
}

template <class T>
void gather_as(const gather_work& work, unsigned hidden, unsigned stride, cudaStream_t stream) {
  gather_rows<<<work.assignments, threads_per_block, 0, stream>>>(
      reinterpret_cast<const T*>(work.rows), work.row_of, reinterpret_cast<T*>(work.x), hidden, stride);
}

// -- activation ---------------------------------------------------------------------------------------------------

template <model::activation act>
__device__ float activated(float first, float up) {
  if constexpr (act == model::activation::swiglu) return first / (1.0F + expf(-first)) * up;
  if constexpr (act == model::activation::clamped_glu) {
    const float g = fminf(first, 7.0F);
    const float u = fminf(fmaxf(up, -7.0F), 7.0F);
    return (u + 1.0F) * g / (1.0F + expf(-1.702F * g));
  }
  // NaN stays NaN, as in the CPU's kernels.
  if constexpr (act == model::activation::relu) return first < 0.0F ? 0.0F : first;
  if constexpr (act == model::activation::gelu_erf) return 0.5F * first * erfcf(-first * 0.70710678118654752F);
  if constexpr (act == model::activation::gelu_tanh) {
    return 0.5F * first * (1.0F + tanhf(0.79788456080286536F * (first + 0.044715F * first * first * first)));
  }
  return 0.0F;
}

// is_gated: model::is_gated(act), which the device cannot call.
template <class T, model::activation act, bool is_gated>
__global__ void activate_rows(activation_work work) {
  const std::size_t a = blockIdx.y;
  const unsigned o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= work.stride) return;
  float h = 0.0F;
  if (o < work.width) {
    const unsigned part = is_gated ? work.first_outputs / 2 : work.first_outputs;
    const unsigned begin = o / block_width * block_width;
    const unsigned at = (is_gated ? 2 * begin : begin) + (o - begin);
    const T* products = reinterpret_cast<const T*>(work.products) + a * work.first_outputs;
    float first = to_float(products[at]);
    float up = is_gated ? to_float(products[at + min(block_width, part - begin)]) : 0.0F;
    if (work.has_bias) {
      const std::byte* slot = work.slots[work.group_of[a]];
      first += floats_at(slot, is_gated ? work.gate_bias_offset : work.up_bias_offset)[o];
      if (is_gated) up += floats_at(slot, work.up_bias_offset)[o];
    }
    h = activated<act>(first, up);
  }
  reinterpret_cast<T*>(work.h)[a * work.stride + o] = from_float<T>(h);
}

template <class T>
void activate_as(const activation_work& work, cudaStream_t stream) {
  using enum model::activation;
  // The second dimension of a grid ends at 65,535.
  constexpr std::uint32_t rows_max = 65'535;
  for (std::uint32_t begin = 0; begin < work.assignments; begin += rows_max) {
    auto part = work;
    part.assignments = work.assignments - begin < rows_max ? work.assignments - begin : rows_max;
    part.products += std::size_t{begin} * work.first_outputs * sizeof(T);
    part.h += std::size_t{begin} * work.stride * sizeof(T);
    part.group_of += begin;
    const dim3 grid(blocks_for(work.stride), part.assignments);
    switch (work.act) {
      case swiglu: activate_rows<T, swiglu, true><<<grid, threads_per_block, 0, stream>>>(part); break;
      case clamped_glu: activate_rows<T, clamped_glu, true><<<grid, threads_per_block, 0, stream>>>(part); break;
      case relu: activate_rows<T, relu, false><<<grid, threads_per_block, 0, stream>>>(part); break;
      case gelu_erf: activate_rows<T, gelu_erf, false><<<grid, threads_per_block, 0, stream>>>(part); break;
      case gelu_tanh: activate_rows<T, gelu_tanh, false><<<grid, threads_per_block, 0, stream>>>(part); break;
    }
  }
}

// -- combine ------------------------------------------------------------------------------------------------------

template <class T>
__device__ float output_of(const combine_work& work, std::size_t a, unsigned c) {
  float y = to_float(reinterpret_cast<const T*>(work.y)[a * work.stride + c]);
  if (work.has_bias) y += floats_at(work.slots[work.group_of[a]], work.down_bias_offset)[c];
  return y;
}

// One thread per value: no atomics, the order of a row's sum is the groups'.
template <class T>
__global__ void sum_rows(combine_work work) {
  const std::size_t row = blockIdx.x;
  const unsigned c = blockIdx.y * blockDim.x + threadIdx.x;
  if (c >= work.hidden) return;
  float sum = 0.0F;
  for (auto k = work.first_of[row]; k < work.first_of[row + 1]; ++k) {
    const auto a = work.by_row[k];
    sum += work.weight[a] * output_of<T>(work, a, c);
  }
  reinterpret_cast<T*>(work.out)[row * work.hidden + c] = from_float<T>(sum);
}

// One block per assignment.
template <class T>
__global__ void measure_norms(combine_work work) {
  __shared__ float of_warp[threads_per_block / 32];
  const std::size_t a = blockIdx.x;
  float squares = 0.0F;
  for (unsigned c = threadIdx.x; c < work.hidden; c += blockDim.x) {
    const float y = output_of<T>(work, a, c);
    squares += y * y;
  }
  for (int step = 16; step > 0; step /= 2) squares += __shfl_down_sync(0xffffffffU, squares, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = squares;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0.0F;
  for (float value : of_warp) sum += value;
  work.norm[a] = fabsf(work.weight[a]) * sqrtf(sum);
}

template <class T>
void combine_as(const combine_work& work, cudaStream_t stream) {
  if (work.rows > 0) {
    sum_rows<T><<<dim3(work.rows, blocks_for(work.hidden)), threads_per_block, 0, stream>>>(work);
  }
  if (work.assignments > 0) measure_norms<T><<<work.assignments, threads_per_block, 0, stream>>>(work);
}

}  // namespace

void gather(const gather_work& work, cudaStream_t stream) {
  const unsigned element = work.type == dtype::f32 ? 4 : 2;
  const unsigned wide = sizeof(uint4) / element;
  if (work.hidden % wide == 0 && work.stride % wide == 0) {
    return gather_as<uint4>(work, work.hidden / wide, work.stride / wide, stream);
  }
  if (work.type == dtype::f32) return gather_as<std::uint32_t>(work, work.hidden, work.stride, stream);
  gather_as<std::uint16_t>(work, work.hidden, work.stride, stream);
}

void activate(const activation_work& work, cudaStream_t stream) {
  if (work.type == dtype::f32) return activate_as<float>(work, stream);
  activate_as<__nv_bfloat16>(work, stream);
}

void combine(const combine_work& work, cudaStream_t stream) {
  if (work.type == dtype::f32) return combine_as<float>(work, stream);
  combine_as<__nv_bfloat16>(work, stream);
}

}  // namespace troupe::compute::cuda
