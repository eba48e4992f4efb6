// What becomes of the matches ("delimiters") when a piece is cut at them; the words are those of tokenizer.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/tokenizer/pattern.hpp"
#include "model/tokenizer/piece.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {

enum class split_behavior : std::uint8_t {
  removed,               // "a-b" at "-": a, b
  isolated,              // a, -, b
  merged_with_previous,  // a-, b
  merged_with_next,      // a, -b
  contiguous             // as isolated, but neighbouring matches stay together
};

// Where to cut, from the matches that cover a text. Parts that stay have `matched` false.
[[nodiscard]] std::vector<match_range> arrange(std::vector<match_range> matches, split_behavior behavior);

// Appends the parts of `whole` that stay and are not empty.
void cut(const piece& whole, const std::vector<match_range>& parts, piece_list& out);

// Every character for which `matches(c)` holds is a match of its own.
template <class Matches>
[[nodiscard]] std::vector<match_range> find_characters(std::string_view text, Matches matches) {
  std::vector<match_range> found;
  std::size_t covered = 0;
  for (std::size_t i = 0; i < text.size();) {
    auto begin = i;
    if (!matches(take_character(text, i))) continue;
    if (begin > covered) found.push_back({covered, begin, false});
    found.push_back({begin, i, true});
    covered = i;
  }
  if (covered < text.size()) found.push_back({covered, text.size(), false});
  return found;
}

}  // namespace troupe::model
