// UTF-8 and the properties of characters that tokenizers ask for, by Unicode 15 (utf8proc). Pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace troupe::model {

inline constexpr std::string_view replacement_character = "\xEF\xBF\xBD";  // U+FFFD

enum class utf8_state {
  valid,       // a whole character
  incomplete,  // the text ends within a character that is valid so far
  invalid      // not UTF-8, however it goes on
};

struct utf8_step {
  utf8_state state;
  std::size_t bytes;  // of the character, or of what one U+FFFD stands for (Unicode 15, table 3-8); at least 1
};

// What the text begins with. @pre not empty.
[[nodiscard]] utf8_step next_utf8(std::string_view text);

[[nodiscard]] bool is_ascii(std::string_view text);
[[nodiscard]] bool is_valid_utf8(std::string_view text);
// Invalid parts become U+FFFD.
[[nodiscard]] std::string make_valid(std::string_view text);

// The functions below take valid UTF-8.

// The character at `position`, which moves behind it. @pre position < text.size().
[[nodiscard]] char32_t take_character(std::string_view text, std::size_t& position);
// Where the last character begins. @pre not empty.
[[nodiscard]] std::size_t last_character(std::string_view text);
void append_character(std::string& text, char32_t character);

[[nodiscard]] bool is_white_space(char32_t character);     // White_Space
[[nodiscard]] bool is_numeric(char32_t character);         // Nd, Nl, No
[[nodiscard]] bool is_punctuation(char32_t character);     // P*, and ASCII's symbols
[[nodiscard]] bool is_combining_mark(char32_t character);  // M*
[[nodiscard]] bool is_word(char32_t character);            // Alphabetic, M*, Nd, Pc, Join_Control: \w of UTS 18

[[nodiscard]] std::string to_lower(std::string_view text);  // character by character: no final sigma

enum class normal_form { nfc, nfd, nfkc, nfkd };
[[nodiscard]] std::string normalize(std::string_view text, normal_form form);

}  // namespace troupe::model
