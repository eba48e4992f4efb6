// Which experts of a layer rows choose together: what routers count and the coordinator gathers. Plain values.
//
// Of all pairs only those with the most rows are listed. Nothing that is listed is ever more than the truth, and by how
// much it may be less is known:
//
//   listed <= true <= listed + missed_max      for a pair that is listed
//             true <= missed_max               for one that is not
//
// A list of the k largest exact counts leaves out at most n / (k + 1) rows of a pair, n the sum over all pairs: k + 1
// pairs have at least as many rows as the largest one that is left out. Lists that are merged add up what each may have
// missed, and the largest sum that the merged list has no room for (as for the summaries of Agarwal et al., "Mergeable
// Summaries", PODS 2012, which subtract that sum instead).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/error.hpp"
#include "common/limits.hpp"

namespace troupe::proto {
class LayerPairs;
}

namespace troupe {

struct expert_pair {
  std::uint32_t first{}, second{};  // first < second
  std::uint64_t rows{};             // that chose both
  friend bool operator==(const expert_pair&, const expert_pair&) = default;
};

struct pair_counts {
  std::uint64_t rows{};                    // that were looked at
  std::vector<std::uint64_t> expert_rows;  // [N]: of these, those that chose the expert
  std::vector<expert_pair> pairs;          // the most rows first; then by first and second
  std::uint64_t missed_max{};
  friend bool operator==(const pair_counts&, const pair_counts&) = default;
};

// Puts `pairs` in order and leaves out those beyond `most`; returns the rows of the largest that went.
std::uint64_t keep_most(std::vector<expert_pair>& pairs, std::size_t most = limits::expert_pairs_max);

// Adds what another router, or another time, has counted of the same layer.
void merge(pair_counts& into, const pair_counts& more, std::size_t most = limits::expert_pairs_max);

// All but which layer and which turn it is.
void to_proto(const pair_counts& counts, proto::LayerPairs& message);
// invalid_request with layer and numbers when lists are too long or differ in length, an expert is none of the layer's,
// or there are more rows than there can be.
[[nodiscard]] result<pair_counts> pair_counts_from(const proto::LayerPairs& message);

}  // namespace troupe
