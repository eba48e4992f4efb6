#include "router_node/core/pair_counter.hpp"

#include <algorithm>
#include <functional>
#include <utility>

namespace troupe::router {

pair_counter::pair_counter(std::uint32_t num_experts, std::uint32_t top_k) {
  if (top_k < 2 || num_experts < 2 || num_experts > limits::pair_experts_max) return;
  expert_rows_.resize(num_experts);
  pair_rows_.resize(place(0, num_experts));
}

void pair_counter::count(std::span<const std::int32_t> expert_ids, std::uint32_t top_k) {
  if (expert_rows_.empty() || top_k == 0) return;
  for (; expert_ids.size() >= top_k; expert_ids = expert_ids.subspan(top_k)) {
    chosen_.clear();
    for (const auto id : expert_ids.first(top_k)) {
      if (id < 0 || static_cast<std::size_t>(id) >= expert_rows_.size()) continue;
      const auto expert = static_cast<std::uint32_t>(id);
      if (std::ranges::find(chosen_, expert) != chosen_.end()) continue;
      for (const auto other : chosen_) ++pair_rows_[place(std::min(other, expert), std::max(other, expert))];
      chosen_.push_back(expert);
      ++expert_rows_[expert];
    }
    ++rows_;
  }
}

// Many times quicker than putting the pairs themselves in order.
std::uint32_t pair_counter::rows_beyond(std::size_t most) const {
  if (pair_rows_.size() <= most) return 0;
  auto rows = pair_rows_;
  const auto border = rows.begin() + static_cast<std::ptrdiff_t>(most);
  std::nth_element(rows.begin(), border, rows.end(), std::greater<>());
  return *border;
}

pair_counts pair_counter::take(std::size_t most) {
  pair_counts counts;
  if (rows_ == 0) return counts;
  counts.rows = std::exchange(rows_, 0);
  counts.expert_rows = expert_rows_;
  std::ranges::fill(expert_rows_, 0);
  counts.missed_max = rows_beyond(most);
  std::size_t at = 0;
  for (std::uint32_t second = 1; second < expert_rows_.size(); ++second) {
    for (std::uint32_t first = 0; first < second; ++first, ++at) {
      const auto rows = std::exchange(pair_rows_[at], 0);
      if (rows > counts.missed_max) counts.pairs.push_back({first, second, rows});
    }
  }
  keep_most(counts.pairs, most);
  return counts;
}

}  // namespace troupe::router
