#include <cuda_bf16.h>

#include "compute/cuda/kernels.hpp"
#include "compute/cuda/launch.cuh"

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

constexpr unsigned gathered_at_once = 4;  // assignments of a block

// T is as wide as the row's length allows.
template <class T>
__global__ void gather_rows(const T* rows, const std::uint32_t* row_of, T* x, unsigned assignments, unsigned hidden,
                            unsigned stride) {
  let_next_launch_begin();
  const unsigned first = blockIdx.x * gathered_at_once;
  std::size_t from[gathered_at_once];
#pragma unroll
  for (unsigned i = 0; i < gathered_at_once; ++i) {
    from[i] = first + i < assignments ? std::size_t{row_of[first + i]} * hidden : 0;
  }
  for (unsigned c = threadIdx.x; c < stride; c += blockDim.x) {
    T value[gathered_at_once];
#pragma unroll
    for (unsigned i = 0; i < gathered_at_once; ++i) value[i] = c < hidden ? rows[from[i] + c] : T{};
#pragma unroll
    for (unsigned i = 0; i < gathered_at_once; ++i) {
      if (first + i < assignments) x[std::size_t{first + i} * stride + c] = value[i];
    }
  }
}

// `wide`: elements of the type in a T.
template <class T>
void gather_as(const products_work& work, std::byte* x, unsigned wide, cudaStream_t stream) {
  const unsigned blocks = (work.assignments + gathered_at_once - 1) / gathered_at_once;
  gather_rows<<<blocks, threads_per_block, 0, stream>>>(reinterpret_cast<const T*>(work.rows), work.row_of,
                                                        reinterpret_cast<T*>(x), work.assignments,
                                                        work.form.hidden / wide, work.form.first_inputs / wide);
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

// Of one launch.
struct activation_work {
  expert_form form;
  const std::byte* products{};              // [A, first_outputs]
  const std::uint32_t* group_of{};          // [A]
  const std::byte* const* slot_of_group{};  // [G]
  std::byte* h{};                           // [A, second_inputs]
  std::uint32_t assignments{};
};

// is_gated: model::is_gated(act), which the device cannot call.
template <class T, model::activation act, bool is_gated>
__global__ void activate_rows(activation_work work) {
  const auto& form = work.form;
  const std::size_t a = blockIdx.y;
  const unsigned o = blockIdx.x * blockDim.x + threadIdx.x;
  if (o >= form.second_inputs) return;
  float h = 0.0F;
  if (o < form.width) {
    const unsigned part = is_gated ? form.first_outputs / 2 : form.first_outputs;
    const unsigned begin = o / block_width * block_width;
    const unsigned at = (is_gated ? 2 * begin : begin) + (o - begin);
    const T* products = reinterpret_cast<const T*>(work.products) + a * form.first_outputs;
    float first = to_float(products[at]);
    float up = is_gated ? to_float(products[at + min(block_width, part - begin)]) : 0.0F;
    if (form.has_bias) {
      const std::byte* slot = work.slot_of_group[work.group_of[a]];
      first += floats_at(slot, is_gated ? form.gate_bias_offset : form.up_bias_offset)[o];
      if (is_gated) up += floats_at(slot, form.up_bias_offset)[o];
    }
    h = activated<act>(first, up);
  }
  reinterpret_cast<T*>(work.h)[a * form.second_inputs + o] = from_float<T>(h);
}

template <class T>
void activate_as(const activation_work& work, cudaStream_t stream) {
  using enum model::activation;
  const auto& form = work.form;
  // The second dimension of a grid ends at 65,535.
  constexpr std::uint32_t rows_max = 65'535;
  for (std::uint32_t begin = 0; begin < work.assignments; begin += rows_max) {
    auto part = work;
    part.assignments = work.assignments - begin < rows_max ? work.assignments - begin : rows_max;
    part.products += std::size_t{begin} * form.first_outputs * sizeof(T);
    part.h += std::size_t{begin} * form.second_inputs * sizeof(T);
    part.group_of += begin;
    const dim3 grid(blocks_for(form.second_inputs), part.assignments);
    switch (form.act) {
      case swiglu:
        activate_rows<T, swiglu, true><<<grid, threads_per_block, 0, stream>>>(part);
        break;
      case clamped_glu:
        activate_rows<T, clamped_glu, true><<<grid, threads_per_block, 0, stream>>>(part);
        break;
      case relu:
        activate_rows<T, relu, false><<<grid, threads_per_block, 0, stream>>>(part);
        break;
      case gelu_erf:
        activate_rows<T, gelu_erf, false><<<grid, threads_per_block, 0, stream>>>(part);
        break;
      case gelu_tanh:
        activate_rows<T, gelu_tanh, false><<<grid, threads_per_block, 0, stream>>>(part);
        break;
    }
  }
}

// -- combine ------------------------------------------------------------------------------------------------------

// Neighbouring values that a thread takes at once: 16 bytes where the row's length allows.
template <class T, unsigned count>
struct alignas(count * sizeof(T)) values {
  T value[count];
};

constexpr unsigned warps_max = 32;
constexpr unsigned warps_of_many = 8;  // of a block where rows alone keep the card busy
constexpr unsigned many_rows = 512;
constexpr unsigned lists_bytes_max = 48 * 1024;  // what a launch may use without asking
constexpr unsigned at_once = 4;                  // assignments whose values are under way together

// One block per row: y is read once. No atomics, the order of a row's sum is the groups', that of a norm's the
// threads'.
template <class T, unsigned count>
__global__ void __launch_bounds__(warps_max * 32) combine_rows(combine_work work) {
  extern __shared__ float lists[];
  using piece = values<T, count>;
  const auto& form = work.form;
  const std::size_t row = blockIdx.x;
  const auto begin = work.first_of[row];
  const auto assignments = work.first_of[row + 1] - begin;
  float* const weight = lists;  // [per_row_max]
  auto* const index = reinterpret_cast<std::uint32_t*>(weight + work.per_row_max);
  float* const squares = weight + 2 * work.per_row_max;  // [warps, per_row_max]
  float* const mine = squares + threadIdx.x / 32 * work.per_row_max;
  for (unsigned k = threadIdx.x; k < assignments; k += blockDim.x) {
    index[k] = work.by_row[begin + k];
    weight[k] = work.weight[index[k]];
  }
  for (unsigned k = threadIdx.x % 32; k < assignments; k += 32) mine[k] = 0.0F;
  wait_for_previous_launch();
  __syncthreads();
  // Whole warps go through the loop, so that they can add up.
  const unsigned pieces = form.hidden / count;
  for (unsigned first = threadIdx.x / 32 * 32; first < pieces; first += blockDim.x) {
    const unsigned at = first + threadIdx.x % 32;
    float sum[count] = {};
    for (unsigned from = 0; from < assignments; from += at_once) {
      piece y[at_once];
#pragma unroll
      for (unsigned i = 0; i < at_once; ++i) {
        if (from + i >= assignments || at >= pieces) continue;
        const T* const of = reinterpret_cast<const T*>(work.y) + std::size_t{index[from + i]} * form.second_outputs;
        y[i] = reinterpret_cast<const piece*>(of)[at];
      }
#pragma unroll
      for (unsigned i = 0; i < at_once; ++i) {
        if (from + i >= assignments) break;
        float square = 0.0F;
        if (at < pieces) {
          float value[count];
#pragma unroll
          for (unsigned c = 0; c < count; ++c) value[c] = to_float(y[i].value[c]);
          if (form.has_bias) {
            const std::byte* const slot = work.slot_of_group[work.group_of[index[from + i]]];
#pragma unroll
            for (unsigned c = 0; c < count; ++c) value[c] += floats_at(slot, form.down_bias_offset)[at * count + c];
          }
#pragma unroll
          for (unsigned c = 0; c < count; ++c) {
            sum[c] += weight[from + i] * value[c];
            square += value[c] * value[c];
          }
        }
        for (int step = 16; step > 0; step /= 2) square += __shfl_down_sync(0xffffffffU, square, step);
        if (threadIdx.x % 32 == 0) mine[from + i] += square;
      }
    }
    if (at >= pieces) continue;
    piece out;
#pragma unroll
    for (unsigned c = 0; c < count; ++c) out.value[c] = from_float<T>(sum[c]);
    reinterpret_cast<piece*>(reinterpret_cast<T*>(work.out) + row * form.hidden)[at] = out;
  }
  __syncthreads();
  for (unsigned k = threadIdx.x; k < assignments; k += blockDim.x) {
    float square = 0.0F;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) square += squares[warp * work.per_row_max + k];
    work.norm[index[k]] = fabsf(weight[k]) * sqrtf(square);
  }
}

template <class T, unsigned count>
void combine_as(const combine_work& work, bool begins_early, cudaStream_t stream) {
  if (work.rows == 0) return;
  const unsigned needed = (work.form.hidden / count + 31) / 32;
  const unsigned list_bytes = work.per_row_max * sizeof(float);
  const unsigned most = work.rows < many_rows ? warps_max : warps_of_many;
  unsigned warps = needed < most ? needed : most;
  while (warps > 1 && (warps + 2) * list_bytes > lists_bytes_max) --warps;
  const unsigned shared_bytes = (warps + 2) * list_bytes;
  if (begins_early) {
    static_cast<void>(launch_early(combine_rows<T, count>, work.rows, warps * 32, shared_bytes, stream, work));
  } else {
    combine_rows<T, count><<<work.rows, warps * 32, shared_bytes, stream>>>(work);
  }
}

}  // namespace

void gather(const products_work& work, std::byte* x, cudaStream_t stream) {
  const bool is_f32 = work.form.type == dtype::f32;
  const auto elements = static_cast<unsigned>(sizeof(uint4) / element_bytes(work.form.type));
  if (work.form.hidden % elements == 0 && work.form.first_inputs % elements == 0) {
    return gather_as<uint4>(work, x, elements, stream);
  }
  if (is_f32) return gather_as<std::uint32_t>(work, x, 1, stream);
  gather_as<std::uint16_t>(work, x, 1, stream);
}

void activate(const products_work& work, const std::byte* products, std::byte* h, cudaStream_t stream) {
  const activation_work one{.form = work.form,
                            .products = products,
                            .group_of = work.group_of,
                            .slot_of_group = work.slot_of_group,
                            .h = h,
                            .assignments = work.assignments};
  if (work.form.type == dtype::f32) return activate_as<float>(one, stream);
  activate_as<__nv_bfloat16>(one, stream);
}

void combine(const combine_work& work, bool begins_early, cudaStream_t stream) {
  const auto hidden = work.form.hidden;
  if (work.form.type == dtype::f32) {
    return hidden % 4 == 0 ? combine_as<float, 4>(work, begins_early, stream)
                           : combine_as<float, 1>(work, begins_early, stream);
  }
  return hidden % 8 == 0 ? combine_as<__nv_bfloat16, 8>(work, begins_early, stream)
                         : combine_as<__nv_bfloat16, 1>(work, begins_early, stream);
}

}  // namespace troupe::compute::cuda
