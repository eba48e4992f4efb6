// Finds stop strings in a growing text, across the borders of its pieces. Shows text as early as possible: only what
// could be the beginning of a stop string is held back. Single-threaded value.
//
// The text ends before the stop string that is complete first; when several are complete at the same byte, before the
// longest. That does not depend on how the text is cut into pieces. Knuth-Morris-Pratt, one automaton per stop string:
// time is linear in the text, whatever the strings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::router {

class stop_matcher {
 public:
  struct piece {
    std::string text;                  // may be shown now
    std::optional<std::string> match;  // the stop string; the text is over
  };

  // Empty strings are ignored.
  explicit stop_matcher(const std::vector<std::string>& stops);

  // Whole UTF-8 characters in, whole characters out. After a match everything is swallowed.
  [[nodiscard]] piece push(std::string_view text);

  // The text is over without a match: what was held back. Empty after a match.
  [[nodiscard]] std::string finish();

 private:
  struct automaton {
    std::string stop;
    std::vector<std::uint32_t> fallback;  // [i]: length of the longest proper border of the first i + 1 bytes
    std::uint32_t matched{};              // so many bytes of `stop` end the text so far
  };
  static void advance(automaton& a, char byte);

  std::vector<automaton> automata_;
  std::string held_;
  bool is_over_{};
};

}  // namespace troupe::router
