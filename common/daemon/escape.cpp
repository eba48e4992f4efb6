#include "common/daemon/escape.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <iterator>

namespace troupe::daemon {
namespace {

// Bytes of the well-formed UTF-8 sequence that `text` begins with; 0 when there is none.
std::size_t sequence_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const auto lead = byte(0);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
  if (length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (length < 3) return length;
  // Over-long forms, surrogates, and numbers past the last character.
  const auto second = byte(1);
  if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return 0;
  if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return 0;
  return length;
}

bool is_control(std::string_view sequence) {
  const auto lead = static_cast<std::uint8_t>(sequence[0]);
  if (sequence.size() == 1) return lead < 0x20 || lead == 0x7f;
  // U+0080 to U+009F: some terminals take U+009B for the beginning of an ANSI sequence.
  return sequence.size() == 2 && lead == 0xc2 && static_cast<std::uint8_t>(sequence[1]) < 0xa0;
}

}  // namespace

std::string escape_text(std::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    const auto length = sequence_length(text);
    const auto sequence = text.substr(0, length == 0 ? 1 : length);
    if (sequence == "\n") {
      escaped += "\\n";
    } else if (sequence == "\t") {
      escaped += "\\t";
    } else if (length == 0 || is_control(sequence)) {
      for (const char c : sequence)
        fmt::format_to(std::back_inserter(escaped), "\\x{:02x}", static_cast<std::uint8_t>(c));
    } else {
      escaped += sequence;
    }
    text.remove_prefix(sequence.size());
  }
  return escaped;
}

std::string escape_json(std::string_view text) {
  std::string escaped;
  for (const char c : escape_text(text)) {
    if (c == '"' || c == '\\') escaped.push_back('\\');
    escaped.push_back(c);
  }
  return escaped;
}

}  // namespace troupe::daemon
