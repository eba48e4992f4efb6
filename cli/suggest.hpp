// Near misses: what a mistyped word was probably meant to be. Pure.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::cli {

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b);

// The candidates at most a third of the word's length away (at least 1, at most 3), and those it is a beginning of;
// nearest first, at most `count`.
[[nodiscard]] std::vector<std::string> near_misses(std::string_view word, std::span<const std::string> candidates,
                                                   std::size_t count = 3);

// "; did you mean a or b?" or "".
[[nodiscard]] std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

}  // namespace troupe::cli
