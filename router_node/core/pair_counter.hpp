// Counts which experts of a layer are chosen together by a row, exactly, and hands out the pairs with the most rows.
//
// A table with a number for each pair of N experts is smaller than the gate that chooses among them (N x H values) as
// long as N < 2 H, so no row has to be left out and nothing has to be estimated: k chosen experts cost k (k - 1) / 2
// additions, hundreds of times less than the gate's N x H. What is bounded is what is handed out
// (common/expert_pairs.hpp says what that misses). Gates that choose one expert, and layers of more than
// limits::pair_experts_max, have no table.
//
// Thread rule: one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/expert_pairs.hpp"

namespace troupe::router {

class pair_counter {
 public:
  pair_counter(std::uint32_t num_experts, std::uint32_t top_k);

  // expert_ids: [T, top_k]; under 0: none. An id that a row has twice makes no pair with itself.
  void count(std::span<const std::int32_t> expert_ids, std::uint32_t top_k);
  // What was counted since the last time. rows 0: nothing.
  [[nodiscard]] pair_counts take(std::size_t most = limits::expert_pairs_max);

 private:
  // Rows of the largest pair that a list of so many has no room for. Pairs with more make the list: those at the border
  // stay out.
  [[nodiscard]] std::uint32_t rows_beyond(std::size_t most) const;
  // Pair (first, second) with first < second.
  [[nodiscard]] static std::size_t place(std::size_t first, std::size_t second) {
    return second * (second - 1) / 2 + first;
  }

  std::uint64_t rows_{};
  std::vector<std::uint64_t> expert_rows_;  // [N]; empty: nothing is counted
  std::vector<std::uint32_t> pair_rows_;    // [N (N - 1) / 2]
  std::vector<std::uint32_t> chosen_;       // of one row
};

}  // namespace troupe::router
