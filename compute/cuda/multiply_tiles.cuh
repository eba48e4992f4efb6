// The kernel of hopper_products: tiles of products, one after the other, by blocks that stay.
//
//   warp group 0   fills stages of shared memory: weights by the copy engine, rows by it or, gathering, by itself
//   groups 1, 2    multiply, 64 outputs of a tile each, and hand results to the copy engine through shared memory
#pragma once

#include <cuda_bf16.h>

#include "compute/cuda/hopper.cuh"
#include "compute/cuda/launch.cuh"
#include "compute/cuda/row_tiles.hpp"

namespace troupe::compute::cuda {

using bf16 = __nv_bfloat16;

constexpr unsigned step_inputs = 64;  // 128 bytes, the widest swizzle
constexpr unsigned row_bytes = step_inputs * sizeof(bf16);
constexpr unsigned tile_outputs = 128;  // 64 of each warp group
constexpr unsigned weight_bytes = tile_outputs * row_bytes;
constexpr unsigned panel = 64;  // packing.hpp: outputs of gate, then as many of up

constexpr unsigned group_threads = 128;
constexpr unsigned threads = 3 * group_threads;  // one warp group copies, two multiply
constexpr unsigned stages_max = 10;
constexpr unsigned shared_bytes_max = 227 * 1024;
constexpr unsigned other_bytes = 1024 + 2 * stages_max * sizeof(std::uint64_t);

inline constexpr unsigned tiles_max = 256;

// What is done to a product before it is written.
enum class finish : std::uint8_t { none, swiglu, clamped_glu };

// A tile's results are columns of 64 outputs: one of each warp group, or one of both when gated.
constexpr unsigned result_columns(finish end) { return end == finish::none ? 2 : 1; }

// Of one launch, in constant memory.
struct launch {
  CUtensorMap weights;  // {inputs, 8 rows, 2, blocks, slots}: see map_weights
  CUtensorMap rows_64;  // {inputs, assignments} in boxes of 64 rows; when not gathered
  CUtensorMap rows_16;
  const bf16* rows;             // [R, hidden]; when gathered
  const std::uint32_t* row_of;  // [assignments]
  CUtensorMap c_64;             // {outputs, assignments} in boxes of 64 outputs and 64 rows
  CUtensorMap c_16;
  bf16* c;  // [assignments, outputs]
  std::uint32_t hidden;
  std::uint32_t outputs;
  std::uint32_t steps;
  std::uint32_t blocks;       // tiles along the outputs
  std::uint32_t tile_blocks;  // of a tile, in the weights' fourth dimension
  std::uint32_t rows_max;     // of a tile, padded
  std::uint32_t stages;
  bool has_bias;
  const std::byte* arena;
  std::uint64_t slot_bytes;
  std::uint64_t gate_bias_offset;
  std::uint64_t up_bias_offset;
  std::uint32_t tiles;
  row_tile tile[tiles_max];
};

// -- on the device ------------------------------------------------------------------------------------------------

// The stages of shared memory in turn.
struct turn {
  unsigned stage{};
  unsigned parity{};

  __device__ void next(unsigned stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// A stage is weights, then rows, 128 bytes of each; behind the stages lie results, 64 outputs of each row in a column.
// All in the swizzle of hopper::describe.
constexpr unsigned stage_bytes(unsigned rows_max) { return weight_bytes + rows_max * row_bytes; }
constexpr unsigned result_bytes(finish end, unsigned rows_max) { return result_columns(end) * rows_max * row_bytes; }

struct shared_memory {
  std::uint32_t begin;
  std::uint32_t bytes;  // of a stage
  std::uint32_t results;
  std::uint32_t barriers;

  __device__ shared_memory(const launch& work, finish end, const void* memory)
      : begin((hopper::shared_address(memory) + 1023) / 1024 * 1024),
        bytes(stage_bytes(work.rows_max)),
        results(begin + work.stages * bytes),
        barriers(results + result_bytes(end, work.rows_max)) {}

  __device__ std::uint32_t weights(unsigned stage) const { return begin + stage * bytes; }
  __device__ std::uint32_t rows(unsigned stage) const { return weights(stage) + weight_bytes; }
  __device__ std::uint32_t full(unsigned stage) const { return barriers + stage * 16; }
  __device__ std::uint32_t empty(unsigned stage) const { return full(stage) + 8; }
};

// A product's tile: which rows, which outputs.
struct place {
  row_tile rows;
  unsigned block;  // of tile_outputs
};

// Tiles of the same outputs of an expert follow each other: together they read its weights once.
__device__ place place_of_tile(const launch& work, unsigned tile) {
  const auto& any = work.tile[tile / work.blocks];
  const unsigned at = tile - any.head * work.blocks;
  return {work.tile[any.head + at % any.pieces], at / any.pieces};
}

// The tiles of this block in turn.
class tile_cursor {
 public:
  __device__ explicit tile_cursor(const launch& work) : tile_(blockIdx.x) { look(work); }

  [[nodiscard]] __device__ bool is_over(const launch& work) const { return tile_ >= work.tiles * work.blocks; }
  [[nodiscard]] __device__ const place& operator*() const { return place_; }
  __device__ void next(const launch& work) {
    tile_ += gridDim.x;
    look(work);
  }

 private:
  __device__ void look(const launch& work) {
    if (!is_over(work)) place_ = place_of_tile(work, tile_);
  }

  unsigned tile_;
  place place_;
};

// Their steps, for whoever fills the stages.
struct step_cursor {
  tile_cursor tile;
  unsigned step{};
  turn at;

  __device__ explicit step_cursor(const launch& work) : tile(work) {}

  [[nodiscard]] __device__ bool is_over(const launch& work) const { return tile.is_over(work); }
  [[nodiscard]] __device__ int input() const { return static_cast<int>(step * step_inputs); }
  __device__ void next(const launch& work) {
    at.next(work.stages);
    if (++step < work.steps) return;
    step = 0;
    tile.next(work);
  }
};

// `bytes`: of rows that the copy engine will bring, too.
__device__ void copy_weights(const launch& work, const shared_memory& memory, const step_cursor& to, unsigned bytes) {
  const auto full = memory.full(to.at.stage);
  hopper::arrive_expecting(full, weight_bytes + bytes);
  hopper::copy_box(memory.weights(to.at.stage), work.weights, full, to.input(), 0, 0,
                   static_cast<int>((*to.tile).block * work.tile_blocks), static_cast<int>((*to.tile).rows.slot));
}

__device__ void copy_rows(const launch& work, const shared_memory& memory, const step_cursor& to) {
  const auto& tile = (*to.tile).rows;
  const unsigned end = padded(tile.rows);
  unsigned row = 0;
  const auto copy = [&](const CUtensorMap& map, unsigned rows) {
    hopper::copy_box(memory.rows(to.at.stage) + row * row_bytes, map, memory.full(to.at.stage), to.input(),
                     static_cast<int>(tile.first + row));
    row += rows;
  };
  while (row + 64 <= end) copy(work.rows_64, 64);
  while (row < end) copy(work.rows_16, row_unit);
}

__device__ unsigned bytes_of_rows(const step_cursor& to) { return padded((*to.tile).rows.rows) * row_bytes; }

// One thread: fills stages as they become empty. The first ones get their weights while the launch before, which makes
// the rows, still runs.
__device__ void copy_tiles(const launch& work, const shared_memory& memory) {
  hopper::prefetch(work.weights);
  hopper::prefetch(work.rows_64);
  hopper::prefetch(work.rows_16);
  step_cursor weights(work);
  for (unsigned stage = 0; stage < work.stages && !weights.is_over(work); ++stage, weights.next(work)) {
    copy_weights(work, memory, weights, bytes_of_rows(weights));
  }
  wait_for_previous_launch();
  step_cursor rows(work);
  for (unsigned stage = 0; stage < work.stages && !rows.is_over(work); ++stage, rows.next(work)) {
    copy_rows(work, memory, rows);
  }
  for (; !rows.is_over(work); rows.next(work)) {
    hopper::wait(memory.empty(rows.at.stage), rows.at.parity ^ 1);
    copy_weights(work, memory, rows, bytes_of_rows(rows));
    copy_rows(work, memory, rows);
  }
}

// A warp group: the same, with rows from anywhere, 16 bytes by each thread. A stage is handed on `lag` steps later,
// when what this thread copied to it has come.
__device__ void copy_tiles_gathering(const launch& work, const shared_memory& memory) {
  constexpr unsigned pieces = row_bytes / 16;
  constexpr unsigned rows_at_once = group_threads / pieces;
  constexpr unsigned rounds = tile_rows_max / rows_at_once;
  constexpr std::uint32_t none = 0xffffffff;
  constexpr unsigned lag = 2;
  const unsigned piece = threadIdx.x % pieces;
  const unsigned first = threadIdx.x / pieces;
  const std::uint32_t place = first * row_bytes + (piece ^ first % 8) * 16;
  std::uint32_t row_of[rounds];
  turn done;
  unsigned open = 0;
  const auto hand_on = [&] {
    hopper::show_writes();
    hopper::arrive(memory.full(done.stage));
    done.next(work.stages);
  };
  for (step_cursor to(work); !to.is_over(work); to.next(work)) {
    const auto& tile = (*to.tile).rows;
    if (to.step == 0) {
#pragma unroll
      for (unsigned round = 0; round < rounds; ++round) {
        const unsigned row = first + round * rows_at_once;
        row_of[round] = row < tile.rows ? work.row_of[tile.first + row] : none;
      }
    }
    hopper::wait(memory.empty(to.at.stage), to.at.parity ^ 1);
    if (threadIdx.x == 0) copy_weights(work, memory, to, 0);
    const unsigned input = to.step * step_inputs + piece * 8;
#pragma unroll
    for (unsigned round = 0; round < rounds; ++round) {
      if (round * rows_at_once >= padded(tile.rows)) break;
      const bool is_there = row_of[round] != none && input < work.hidden;
      hopper::copy_16_bytes(memory.rows(to.at.stage) + place + round * rows_at_once * row_bytes,
                            work.rows + (is_there ? std::size_t{row_of[round]} * work.hidden + input : 0), is_there);
    }
    hopper::commit_copies();
    if (open < lag) {
      ++open;
    } else {
      hopper::wait_for_copies<lag>();
      hand_on();
    }
  }
  hopper::wait_for_copies<0>();
  for (; open > 0; --open) hand_on();
}

template <unsigned rows>
__device__ void multiply_tile(const launch& work, const shared_memory& memory, turn& at, float (&d)[rows / 2]) {
  const unsigned group = threadIdx.x / group_threads - 1;
  const bool speaks = threadIdx.x % 32 == 0;
  for (float& value : d) value = 0.0F;
  unsigned before = 0;
  for (unsigned step = 0; step < work.steps; ++step, at.next(work.stages)) {
    hopper::wait(memory.full(at.stage), at.parity);
    const auto left = hopper::describe(memory.weights(at.stage) + group * weight_bytes / 2);
    const auto right = hopper::describe(memory.rows(at.stage));
    hopper::begin_products();
#pragma unroll
    for (unsigned k = 0; k < step_inputs / 16; ++k) hopper::product<rows>::add(d, left + 2 * k, right + 2 * k);
    hopper::commit_products();
    hopper::wait_for_products<1>();
    if (step > 0 && speaks) hopper::arrive(memory.empty(before));
    before = at.stage;
  }
  hopper::wait_for_products<0>();
  if (speaks) hopper::arrive(memory.empty(before));
}

// Approximations are closer than bf16 can tell.
__device__ float sigmoid_times(float value, float scale) { return __fdividef(value, 1.0F + __expf(-scale * value)); }
template <finish end>
__device__ float activated_gated(float gate, float up) {
  if constexpr (end == finish::swiglu) return sigmoid_times(gate, 1.0F) * up;
  return (fminf(fmaxf(up, -7.0F), 7.0F) + 1.0F) * sigmoid_times(fminf(gate, 7.0F), 1.702F);
}
__device__ std::uint32_t pair_of(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const std::uint32_t&>(both);
}

__device__ float bias_of(const launch& work, const row_tile& tile, std::uint64_t offset, unsigned output) {
  return reinterpret_cast<const float*>(work.arena + tile.slot * work.slot_bytes + offset)[output];
}

// Where 16 bytes of a row lie in a column of results.
__device__ std::uint32_t offset_of(unsigned row, unsigned piece) { return row * row_bytes + (piece ^ row % 8) * 16; }

// Rows [row, row + 16) of a gated product, which has 8 outputs of gate and the same 8 of up in a warp.
template <finish end, unsigned rows>
__device__ void stage_gated(unsigned row, const float (&d)[rows / 2], float gate_bias, float up_bias,
                            std::uint32_t column, unsigned piece) {
  std::uint32_t h[2];
#pragma unroll
  for (unsigned i = 0; i < 2; ++i) {
    const float* const at = d + 4 * (row / 8 + i);
    h[i] = pair_of(activated_gated<end>(at[0] + gate_bias, at[2] + up_bias),
                   activated_gated<end>(at[1] + gate_bias, at[3] + up_bias));
  }
  hopper::store_transposed(column + offset_of(row + threadIdx.x % 16, piece), h[0], h[1]);
}

// Of any other, which has 16 outputs in a warp.
template <unsigned rows>
__device__ void stage_plain(unsigned row, const float (&d)[rows / 2], std::uint32_t column, unsigned piece) {
  const unsigned lane = threadIdx.x % 32;
  std::uint32_t y[4];
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) y[i] = pair_of(d[row / 2 + 2 * i], d[row / 2 + 2 * i + 1]);
  hopper::store_transposed(column + offset_of(row + lane / 16 * 8 + lane % 8, piece + lane / 8 % 2), y[0], y[1], y[2],
                           y[3]);
}

// One thread: hands a column of results to the copy engine, which takes 16 rows at least.
__device__ void store_column(const launch& work, const row_tile& tile, std::uint32_t column, unsigned output) {
  if (output >= work.outputs) return;
  unsigned row = 0;
  for (; row + 64 <= tile.rows; row += 64) {
    hopper::store_box(work.c_64, column + row * row_bytes, static_cast<int>(output),
                      static_cast<int>(tile.first + row));
  }
  for (; row + row_unit <= tile.rows; row += row_unit) {
    hopper::store_box(work.c_16, column + row * row_bytes, static_cast<int>(output),
                      static_cast<int>(tile.first + row));
  }
  hopper::commit_stores();
}

// A warp group: the rows that are left.
__device__ void store_rest(const launch& work, const row_tile& tile, std::uint32_t column, unsigned output) {
  const unsigned piece = threadIdx.x % 8;
  const unsigned row = tile.rows / row_unit * row_unit + threadIdx.x % group_threads / 8;
  output += piece * 8;
  if (row >= tile.rows || output >= work.outputs) return;
  *reinterpret_cast<uint4*>(work.c + std::size_t{tile.first + row} * work.outputs + output) =
      hopper::load_16_bytes(column + offset_of(row, piece));
}

// From registers [outputs, rows] through shared memory to c [rows, outputs]. The copy engine still works at it when the
// next tile begins.
template <finish end, unsigned rows>
__device__ void write_tile(const launch& work, const shared_memory& memory, const row_tile& tile, unsigned block,
                           const float (&d)[rows / 2]) {
  constexpr bool gated = end != finish::none;
  constexpr unsigned results_barrier = 1;
  const unsigned group = threadIdx.x / group_threads - 1;
  const unsigned warp = threadIdx.x % group_threads / 32;
  const auto column = memory.results + (gated ? 0 : group * work.rows_max * row_bytes);
  const unsigned output = block * (gated ? panel : tile_outputs) + (gated ? 0 : group * panel);
  const unsigned piece = gated ? group * 4 + warp : warp * 2;
  const bool stores = threadIdx.x % group_threads == 0 && (!gated || group == 0);
  float gate_bias = 0.0F;
  float up_bias = 0.0F;
  if (gated && work.has_bias && output < work.outputs) {
    const unsigned mine = output + piece * 8 + threadIdx.x % 32 / 4;
    gate_bias = bias_of(work, tile, work.gate_bias_offset, mine);
    up_bias = bias_of(work, tile, work.up_bias_offset, mine);
  }
  if (stores) hopper::wait_for_reads_of_stores();
  hopper::sync_threads(results_barrier, 2 * group_threads);
#pragma unroll
  for (unsigned row = 0; row < rows; row += row_unit) {
    if constexpr (gated) {
      stage_gated<end, rows>(row, d, gate_bias, up_bias, column, piece);
    } else {
      stage_plain<rows>(row, d, column, piece);
    }
  }
  hopper::show_writes();
  hopper::sync_threads(results_barrier, 2 * group_threads);
  if (stores) store_column(work, tile, column, output);
  if (!gated || group == 0) store_rest(work, tile, column, output);
}

// Chooses the narrowest product that has room for the tile's rows.
template <finish end, unsigned rows = row_unit>
__device__ void compute_tile(const launch& work, const shared_memory& memory, const place& tile, turn& at) {
  if constexpr (rows < tile_rows_max) {
    if (tile.rows.rows > rows) return compute_tile<end, rows + row_unit>(work, memory, tile, at);
  }
  float d[rows / 2];
  multiply_tile<rows>(work, memory, at, d);
  write_tile<end, rows>(work, memory, tile.rows, tile.block, d);
}

// gathers: rows come from all over the batch, not side by side.
template <finish end, bool gathers>
__global__ void __launch_bounds__(threads, 1) multiply_tiles(const __grid_constant__ launch work) {
  extern __shared__ std::byte dynamic[];
  let_next_launch_begin();
  const shared_memory memory(work, end, dynamic);
  if (threadIdx.x == 0) {
    for (unsigned stage = 0; stage < work.stages; ++stage) {
      hopper::init_barrier(memory.full(stage), gathers ? 1 + group_threads : 1);
      hopper::init_barrier(memory.empty(stage), 2 * group_threads / 32);
    }
    hopper::publish_barriers();
  }
  __syncthreads();
  if (threadIdx.x < group_threads) {
    hopper::give_registers_back<56>();
    if constexpr (gathers) {
      wait_for_previous_launch();
      copy_tiles_gathering(work, memory);
    } else if (threadIdx.x == 0) {
      copy_tiles(work, memory);
    }
  } else {
    hopper::take_registers<224>();
    turn at;
    for (tile_cursor tile(work); !tile.is_over(work); tile.next(work)) {
      compute_tile<end>(work, memory, *tile, at);
    }
    hopper::wait_for_stores();
  }
}

}  // namespace troupe::compute::cuda
