#include "model/tokenizer/unicode.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include <utf8proc.h>

namespace troupe::model {
namespace {

// Well-formed sequences by their first byte: how long, and the range of the second byte (Unicode 15, table 3-7).
struct lead {
  std::size_t bytes;  // 0: no character begins with it
  unsigned char second_min{0x80};
  unsigned char second_max{0xBF};
};

lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

utf8proc_category_t category(char32_t character) { return utf8proc_category(static_cast<utf8proc_int32_t>(character)); }

// Canonical order: marks between two starters by their class. utf8proc sorts by exchanging neighbours, which takes
// quadratic time on a long run of marks, so only its tables are used here.
void sort_marks(std::vector<utf8proc_int32_t>& characters) {
  auto rank = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  auto begin = characters.begin();
  while (begin != characters.end()) {
    begin = std::find_if(begin, characters.end(), [&](auto c) { return rank(c) != 0; });
    auto end = std::find_if(begin, characters.end(), [&](auto c) { return rank(c) == 0; });
    std::stable_sort(begin, end, [&](auto a, auto b) { return rank(a) < rank(b); });
    begin = end;
  }
}

}  // namespace

utf8_step next_utf8(std::string_view text) {
  auto first = lead_of(static_cast<unsigned char>(text[0]));
  if (first.bytes == 0) return {utf8_state::invalid, 1};
  for (std::size_t i = 1; i < first.bytes; ++i) {
    if (i == text.size()) return {utf8_state::incomplete, i};
    auto byte = static_cast<unsigned char>(text[i]);
    auto low = i == 1 ? first.second_min : 0x80;
    auto high = i == 1 ? first.second_max : 0xBF;
    if (byte < low || byte > high) return {utf8_state::invalid, i};
  }
  return {utf8_state::valid, first.bytes};
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    auto step = next_utf8(text);
    if (step.state != utf8_state::valid) return false;
    text.remove_prefix(step.bytes);
  }
  return true;
}

std::string make_valid(std::string_view text) {
  if (is_ascii(text)) return std::string{text};
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    auto step = next_utf8(text);
    valid += step.state == utf8_state::valid ? text.substr(0, step.bytes) : replacement_character;
    text.remove_prefix(step.bytes);
  }
  return valid;
}

char32_t take_character(std::string_view text, std::size_t& position) {
  auto first = static_cast<unsigned char>(text[position++]);
  if (first < 0x80) return first;
  auto following = first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
  char32_t character = first & (0x3FU >> following);
  for (; following > 0; --following)
    character = (character << 6) | (static_cast<unsigned char>(text[position++]) & 0x3F);
  return character;
}

std::size_t last_character(std::string_view text) {
  auto position = text.size() - 1;
  while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80) --position;
  return position;
}

void append_character(std::string& text, char32_t character) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes.data());
  text.append(bytes.begin(), bytes.begin() + count);
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t character) {
  auto c = category(character);
  return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t character) {
  if (character < 0x80)
    return std::string_view{"$+<=>^`|~"}.find(static_cast<char>(character)) != std::string_view::npos ||
           (category(character) >= UTF8PROC_CATEGORY_PC && category(character) <= UTF8PROC_CATEGORY_PO);
  auto c = category(character);
  return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool is_combining_mark(char32_t character) {
  auto c = category(character);
  return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME;
}

bool is_word(char32_t character) {
  switch (category(character)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default: {  // Other_Alphabetic among the symbols, and the joiners
      auto c = character;
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
    }
  }
}

std::string to_lower(std::string_view text) {
  std::string lower;
  lower.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    auto character = take_character(text, i);
    if (character == 0x130) {  // the only letter whose lower case is two characters
      lower += "i\xCC\x87";
    } else {
      append_character(lower, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character))));
    }
  }
  return lower;
}

std::string normalize(std::string_view text, normal_form form) {
  if (is_ascii(text)) return std::string{text};
  const bool compatible = form == normal_form::nfkc || form == normal_form::nfkd;
  const bool composed = form == normal_form::nfc || form == normal_form::nfkc;
  const auto options =
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> characters;
  characters.reserve(text.size());
  std::array<utf8proc_int32_t, 32> parts{};  // the longest decomposition, that of U+FDFA, has 18
  int boundary_class = 0;
  for (std::size_t i = 0; i < text.size();) {
    auto character = static_cast<utf8proc_int32_t>(take_character(text, i));
    auto count = utf8proc_decompose_char(character, parts.data(), parts.size(), options, &boundary_class);
    characters.insert(characters.end(), parts.begin(), parts.begin() + count);
  }
  sort_marks(characters);
  if (composed) {
    auto count = utf8proc_normalize_utf32(characters.data(), static_cast<utf8proc_ssize_t>(characters.size()),
                                          static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    characters.resize(static_cast<std::size_t>(count));
  }
  std::string normal;
  normal.reserve(text.size());
  for (auto character : characters) append_character(normal, static_cast<char32_t>(character));
  return normal;
}

}  // namespace troupe::model
