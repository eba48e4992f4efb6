// Python's str methods on UTF-8: positions and lengths count characters. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::model::jinja {

// The character at byte `at` and its bytes. The text is valid UTF-8; anything else counts as one byte per character.
[[nodiscard]] std::pair<char32_t, std::size_t> decode_at(std::string_view s, std::size_t at);
[[nodiscard]] std::size_t length(std::string_view s);
[[nodiscard]] std::vector<std::string_view> characters(std::string_view s);
[[nodiscard]] bool is_space(char32_t c);  // str.isspace

enum class side : std::uint8_t { left, right, both };
// Without `chars`: white space.
[[nodiscard]] std::string_view strip(std::string_view s, std::optional<std::string_view> chars, side where);
// Without `separator`: at runs of white space. `splits_max` < 0: all.
[[nodiscard]] std::vector<std::string> split(std::string_view s, std::optional<std::string_view> separator,
                                             std::int64_t splits_max);
[[nodiscard]] std::vector<std::string> split_from_right(std::string_view s, std::string_view separator,
                                                        std::int64_t splits_max);
[[nodiscard]] std::vector<std::string> split_lines(std::string_view s);
[[nodiscard]] std::string replace(std::string_view s, std::string_view from, std::string_view to, std::int64_t times);
[[nodiscard]] std::int64_t count(std::string_view s, std::string_view part);

// Letters beyond ASCII are refused (throws failure): their case would need Unicode's tables.
[[nodiscard]] std::string upper(std::string_view s);
[[nodiscard]] std::string lower(std::string_view s);
[[nodiscard]] std::string capitalize(std::string_view s);
[[nodiscard]] std::string title(std::string_view s);  // str.title: a word is a run of letters
[[nodiscard]] std::string title_filter(
    std::string_view s);  // Jinja's filter: a word begins behind a blank, '-' or bracket

}  // namespace troupe::model::jinja
