#include "compute/cuda/row_tiles.hpp"

#include <algorithm>
#include <functional>

namespace troupe::compute::cuda {

std::vector<row_tile> cut_into_tiles(std::span<const expert_rows> groups) {
  std::vector<expert_rows> sorted(groups.begin(), groups.end());
  std::ranges::stable_sort(sorted, std::greater{}, [](const expert_rows& group) { return tile_rows(group.rows); });
  std::vector<row_tile> tiles;
  for (const auto& group : sorted) {
    const unsigned each = tile_rows(group.rows);
    for (unsigned begin = 0; begin < group.rows; begin += each) {
      tiles.push_back({.slot = group.slot, .first = group.begin + begin, .rows = std::min(each, group.rows - begin)});
    }
  }
  return tiles;
}

unsigned link_tiles(std::span<row_tile> launch) {
  unsigned rows_max = 0;
  for (std::size_t head = 0, end = 0; head < launch.size(); head = end) {
    while (end < launch.size() && launch[end].slot == launch[head].slot) ++end;
    for (auto& tile : launch.subspan(head, end - head)) {
      tile.head = static_cast<std::uint16_t>(head);
      tile.pieces = static_cast<std::uint16_t>(end - head);
      rows_max = std::max(rows_max, padded(tile.rows));
    }
  }
  return rows_max;
}

}  // namespace troupe::compute::cuda
