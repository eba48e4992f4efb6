#include "model/tokenizer/byte_level.hpp"

#include <array>
#include <cstddef>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

struct alphabet {
  std::array<std::string, 256> of_byte;
  std::array<int, 0x144> of_character{};  // -1: none
};

// Printable characters of Latin-1 stand for themselves, the others for U+0100 and up, in order.
const alphabet& letters() {
  static const alphabet made = [] {
    alphabet all;
    all.of_character.fill(-1);
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      bool is_printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      auto character = is_printable ? byte : next++;
      append_character(all.of_byte[byte], character);
      all.of_character[character] = static_cast<int>(byte);
    }
    return all;
  }();
  return made;
}

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  const auto& all = letters();
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (char byte : bytes) text += all.of_byte[static_cast<unsigned char>(byte)];
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  const auto& all = letters();
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    auto character = take_character(text, i);
    if (character >= all.of_character.size() || all.of_character[character] < 0) return std::nullopt;
    bytes += static_cast<char>(all.of_character[character]);
  }
  return bytes;
}

}  // namespace troupe::model
