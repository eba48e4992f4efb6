// A map from pairs of tokens. Sorted instead of hashed, so that no file can make it slow; a lookup takes the logarithm
// of the number of pairs that begin with the left token.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/ids.hpp"

namespace troupe::model {

template <class Value>
class token_pair_map {
 public:
  struct entry {
    token_number left;
    token_number right;
    Value value;
  };

  token_pair_map() = default;
  // All left tokens are below `tokens`. The last of equal pairs counts.
  token_pair_map(std::vector<entry> entries, std::uint32_t tokens)
      : entries_(std::move(entries)), begin_(tokens + std::size_t{1}) {
    std::stable_sort(entries_.begin(), entries_.end(), [](const entry& a, const entry& b) {
      return a.left != b.left ? a.left < b.left : a.right < b.right;
    });
    std::size_t kept = 0;
    for (const auto& next : entries_) {
      bool repeats = kept > 0 && entries_[kept - 1].left == next.left && entries_[kept - 1].right == next.right;
      entries_[repeats ? kept - 1 : kept++] = next;
    }
    entries_.resize(kept);
    for (const auto& pair : entries_) ++begin_[pair.left + std::size_t{1}];
    for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
  }

  // nullptr: none. @pre left is below `tokens`.
  [[nodiscard]] const Value* find(token_number left, token_number right) const {
    auto first = entries_.begin() + begin_[left];
    auto last = entries_.begin() + begin_[left + std::size_t{1}];
    auto found = std::lower_bound(first, last, right, [](const entry& pair, token_number r) { return pair.right < r; });
    return found != last && found->right == right ? &found->value : nullptr;
  }

 private:
  std::vector<entry> entries_;        // by left, then right
  std::vector<std::uint32_t> begin_;  // of a left token's entries
};

}  // namespace troupe::model
