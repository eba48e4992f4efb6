// GPT-2's printable alphabet: every byte has a character of its own, so that a vocabulary of bytes is readable text.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::model {

// How much longer byte-level text can be than the bytes it stands for.
inline constexpr double byte_level_growth = 2;

// One character per byte.
[[nodiscard]] std::string to_byte_level(std::string_view bytes);
// The bytes that the characters stand for; nothing when one of them stands for none. @pre valid UTF-8.
[[nodiscard]] std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace troupe::model
