#include "common/daemon/escape.hpp"

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <iterator>

#include "common/utf8.hpp"

namespace troupe::daemon {
namespace {

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
    const auto length = utf8_sequence_bytes(text);
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
