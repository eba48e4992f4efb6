#include "model/tokenizer/splitting.hpp"

#include <algorithm>

namespace troupe::model {
namespace {

// Joins a range to the one before it where `joins(previous is a match, this is a match)` holds.
template <class Joins>
std::vector<match_range> join(const std::vector<match_range>& matches, Joins joins) {
  std::vector<match_range> joined;
  bool previous = false;
  for (const auto& range : matches) {
    if (!joined.empty() && joins(previous, range.matched)) {
      joined.back().begin = std::min(joined.back().begin, range.begin);
      joined.back().end = std::max(joined.back().end, range.end);
    } else {
      joined.push_back({range.begin, range.end, false});
    }
    previous = range.matched;
  }
  return joined;
}

}  // namespace

std::vector<match_range> arrange(std::vector<match_range> matches, split_behavior behavior) {
  auto only_second = [](bool first, bool second) { return second && !first; };
  switch (behavior) {
    case split_behavior::removed:
      return matches;
    case split_behavior::isolated:
      for (auto& range : matches) range.matched = false;
      return matches;
    case split_behavior::contiguous:
      return join(matches, [](bool first, bool second) { return first == second; });
    case split_behavior::merged_with_previous:
      return join(matches, only_second);
    case split_behavior::merged_with_next:
      std::reverse(matches.begin(), matches.end());
      matches = join(matches, only_second);
      std::reverse(matches.begin(), matches.end());
      return matches;
  }
  return matches;
}

void cut(const piece& whole, const std::vector<match_range>& parts, piece_list& out) {
  for (const auto& part : parts) {
    if (part.matched || part.begin == part.end) continue;
    out.push_back({whole.text.substr(part.begin, part.end - part.begin), whole.at_start && part.begin == 0, {}});
  }
}

}  // namespace troupe::model
