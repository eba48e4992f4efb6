#include "compute/cuda/hopper_products.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "compute/cuda/kernels.hpp"
#include "compute/cuda/launch.cuh"
#include "compute/cuda/multiply_tiles.cuh"

namespace troupe::compute::cuda {
namespace {

using encode_function = decltype(&cuTensorMapEncodeTiled);

// Boxes of `box` out of `dims` elements, the innermost of 64; strides in bytes, from the second dimension on.
template <std::size_t rank>
bool encode(encode_function function, CUtensorMap& map, const std::byte* begin, std::array<cuuint64_t, rank> dims,
            std::array<cuuint64_t, rank - 1> strides, std::array<cuuint32_t, rank> box) {
  std::array<cuuint32_t, rank> ones;
  ones.fill(1);
  return function(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<std::byte*>(begin), dims.data(),
                  strides.data(), box.data(), ones.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

class hopper_kernels final : public hopper_products {
 public:
  hopper_kernels(encode_function encode, int processors)
      : encode_(encode), processors_(static_cast<unsigned>(processors)) {}

  bool knows(const expert_form& form) const override {
    // Rows are taken 16 bytes at a time; half a panel of a gate has its up elsewhere.
    return form.type == dtype::bf16 && form.hidden % 8 == 0 && (!form.is_gated || form.width % panel == 0);
  }

  cudaError_t multiply(const products_work& work, cudaStream_t stream) override {
    auto tiles = cut_into_tiles(work.groups);
    const auto& form = work.form;
    auto* const h = work.scratch + std::size_t{work.assignments} * form.first_inputs * sizeof(bf16);
    if (auto code = multiply_first(work, tiles, h, stream); code != cudaSuccess) return code;
    if (!form.is_gated) {
      activate(work, h, h, stream);
      if (auto code = cudaGetLastError(); code != cudaSuccess) return code;
    }
    launch second{.c = reinterpret_cast<bf16*>(work.y), .outputs = form.second_outputs};
    if (!map_weights(second, work, form.second_offset, form.second_inputs, form.second_outputs, false) ||
        !map_rows(second.rows_64, second.rows_16, h, form.second_inputs, work.assignments) ||
        !map_rows(second.c_64, second.c_16, work.y, form.second_outputs, work.assignments)) {
      return cudaErrorInvalidValue;
    }
    return run<finish::none, false>(second, tiles, stream);
  }

 private:
  // Up to how many rows of an expert the first product takes them from where they came in. Above that it is faster to
  // copy them first (bench/gpu_layer/README.md).
  static constexpr unsigned gathered_rows_max = 128;

  cudaError_t multiply_first(const products_work& work, std::span<row_tile> tiles, std::byte* h,
                             cudaStream_t stream) const {
    const auto& form = work.form;
    auto* const x = work.scratch;
    launch first{.rows = reinterpret_cast<const bf16*>(work.rows),
                 .row_of = work.row_of,
                 .c = reinterpret_cast<bf16*>(h),
                 .hidden = form.hidden,
                 .outputs = form.second_inputs,
                 .has_bias = form.has_bias,
                 .arena = work.arena,
                 .slot_bytes = work.slot_bytes,
                 .gate_bias_offset = form.gate_bias_offset,
                 .up_bias_offset = form.up_bias_offset};
    if (!map_weights(first, work, 0, form.first_inputs, form.first_outputs, form.is_gated) ||
        !map_rows(first.rows_64, first.rows_16, x, form.first_inputs, work.assignments) ||
        !map_rows(first.c_64, first.c_16, h, form.second_inputs, work.assignments)) {
      return cudaErrorInvalidValue;
    }
    const bool gathers = padded(tiles.front().rows) <= gathered_rows_max;
    if (!gathers) gather(work, x, stream);
    const auto run_as = [&]<finish end>() {
      return gathers ? run<end, true>(first, tiles, stream) : run<end, false>(first, tiles, stream);
    };
    if (!form.is_gated) return run_as.template operator()<finish::none>();
    if (form.act == model::activation::swiglu) return run_as.template operator()<finish::swiglu>();
    return run_as.template operator()<finish::clamped_glu>();
  }

  // A box of weights is a tile of 128 rows in shared memory, 16 to each warp of the two warp groups. When gated, these
  // 16 are 8 of the gate and the same 8 of up, which lie a panel of 64 rows behind: the box takes 2 x 8 rows of 8
  // blocks.
  bool map_weights(launch& to, const products_work& work, std::uint64_t offset, std::uint32_t inputs,
                   std::uint32_t outputs, bool gated) const {
    const cuuint64_t row = inputs * sizeof(bf16);
    const cuuint64_t part = gated ? panel : 8;
    const cuuint64_t block = gated ? 8 : 16;
    const cuuint64_t blocks = gated ? outputs / 8 - panel / 8 : outputs / 16;
    to.steps = (inputs + step_inputs - 1) / step_inputs;
    to.blocks = (outputs + tile_outputs - 1) / tile_outputs;
    to.tile_blocks = static_cast<std::uint32_t>(tile_outputs / block);
    return encode<5>(encode_, to.weights, work.arena + offset, {inputs, 8, 2, blocks, work.slots},
                     {row, part * row, block * row, work.slot_bytes}, {step_inputs, 8, 2, 8, 1});
  }
  bool map_rows(CUtensorMap& by_64, CUtensorMap& by_16, const std::byte* rows, std::uint32_t columns,
                std::uint32_t assignments) const {
    const cuuint64_t row = columns * sizeof(bf16);
    return encode<2>(encode_, by_64, rows, {columns, assignments}, {row}, {step_inputs, 64}) &&
           encode<2>(encode_, by_16, rows, {columns, assignments}, {row}, {step_inputs, row_unit});
  }

  // All tiles, as many at a time as constant memory holds.
  template <finish end, bool gathers>
  cudaError_t run(launch& work, std::span<row_tile> tiles, cudaStream_t stream) const {
    constexpr auto kernel = multiply_tiles<end, gathers>;
    auto code = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes_max);
    for (std::size_t begin = 0; begin < tiles.size() && code == cudaSuccess; begin += tiles_max) {
      const auto part = tiles.subspan(begin, std::min<std::size_t>(tiles_max, tiles.size() - begin));
      work.rows_max = link_tiles(part);
      work.tiles = static_cast<std::uint32_t>(part.size());
      std::ranges::copy(part, work.tile);
      const unsigned fixed = other_bytes + result_bytes(end, work.rows_max);
      work.stages = std::min(stages_max, (shared_bytes_max - fixed) / stage_bytes(work.rows_max));
      const auto bytes = fixed + work.stages * stage_bytes(work.rows_max);
      code = launch_early(kernel, std::min(work.tiles * work.blocks, processors_), threads, bytes, stream, work);
    }
    return code;
  }

  encode_function encode_;
  unsigned processors_;
};

}  // namespace

std::unique_ptr<hopper_products> hopper_products::open(int device) {
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess || properties.major != 9) return nullptr;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  constexpr unsigned since_cuda = 12000;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, since_cuda, cudaEnableDefault, &found) !=
          cudaSuccess ||
      found != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return std::make_unique<hopper_kernels>(reinterpret_cast<encode_function>(function), properties.multiProcessorCount);
}

}  // namespace troupe::compute::cuda
