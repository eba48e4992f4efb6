// How the rows of many experts are cut for one launch. Plain C++; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {

inline constexpr unsigned row_unit = 16;
inline constexpr unsigned tile_rows_max = 256;

[[nodiscard]] constexpr unsigned padded(unsigned rows) { return (rows + row_unit - 1) / row_unit * row_unit; }

// Rows of one expert that are multiplied together: assignments [first, first + rows).
struct row_tile {
  std::uint32_t slot{};
  std::uint32_t first{};
  std::uint32_t rows{};    // 1 to tile_rows_max
  std::uint16_t head{};    // index of the expert's first tile in the launch
  std::uint16_t pieces{};  // how many it has there
};

// Into tiles of how many rows, all alike but for the last, an expert's are cut.
[[nodiscard]] constexpr unsigned tile_rows(unsigned rows) {
  const unsigned pieces = (rows + tile_rows_max - 1) / tile_rows_max;
  return padded((rows + pieces - 1) / pieces);
}

// Every row of every group once, the largest tiles first: blocks take tiles in turn, so that neighbours should cost
// alike. head and pieces are not set yet. @pre every group has rows
[[nodiscard]] std::vector<row_tile> cut_into_tiles(std::span<const expert_rows> groups);

// Tells the tiles of an expert in a launch about each other. @returns the most rows of a tile, padded
unsigned link_tiles(std::span<row_tile> launch);

}  // namespace troupe::compute::cuda
