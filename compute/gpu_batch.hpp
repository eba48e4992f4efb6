// A batch as a GPU wants it: assignments of one expert side by side, and for each row the list of its assignments.
// Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "compute/device.hpp"

namespace troupe::compute {

// Rows [begin, end) of a batch and their assignments, in the groups' order.
struct gpu_pass {
  std::uint32_t first_row{};
  std::uint32_t rows{};
  std::vector<std::uint32_t> row_of{};    // [A] counted from first_row
  std::vector<std::uint32_t> group_of{};  // [A] ascending: index into `groups`
  std::vector<float> weight{};            // [A]
  std::vector<std::uint32_t> first_of{};  // [rows + 1]
  std::vector<std::uint32_t> by_row{};    // [A] a row's assignments ascending, so that sums go in the groups' order
  std::vector<std::uint32_t> groups{};    // [G] those of the batch that have rows here
  std::vector<std::uint32_t> begin_of{};  // [G + 1] where each one's assignments begin

  [[nodiscard]] std::uint32_t assignments() const { return static_cast<std::uint32_t>(row_of.size()); }
};

// Cuts a batch of `rows` rows into passes of at most `assignments_max` assignments and `rows_max` rows; a row stays
// whole (one with more assignments than that is a pass of its own). @pre rows of the groups are below `rows`
[[nodiscard]] std::vector<gpu_pass> cut_into_passes(const batch& work, std::uint32_t rows,
                                                    std::uint32_t assignments_max, std::uint32_t rows_max);

}  // namespace troupe::compute
