#include "model/tokenizer/regex_dialect.hpp"

#include <array>
#include <cstddef>
#include <optional>

#include <fmt/format.h>

#include "model/problem_list.hpp"

namespace troupe::model {
namespace {

// PCRE2's \s has U+180E besides White_Space, its \w lacks marks and connectors; these are Oniguruma's.
constexpr std::string_view space_members = R"(\t-\r\x{85}\p{Z})";
constexpr std::string_view word_members = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class translator {
 public:
  explicit translator(std::string_view pattern) : pattern_(pattern) {}

  result<std::string> run() {
    while (at_ < pattern_.size() && !refused_) {
      switch (pattern_[at_]) {
        case '\\':
          escape(false);
          break;
        case '[':
          character_class();
          break;
        case '(':
          group();
          break;
        case '{':
          interval();
          break;
        default:
          copy(1);
      }
    }
    if (refused_) return fail(errc::invalid_request, fmt::format("{} is not supported", printable(*refused_)));
    return std::move(out_);
  }

 private:
  [[nodiscard]] char peek(std::size_t ahead) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  [[nodiscard]] bool stands(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }

  void copy(std::size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  void put(std::string_view text, std::size_t bytes_read) {
    out_ += text;
    at_ += bytes_read;
  }

  void refuse(std::string what) { refused_ = std::move(what); }

  void group() {
    constexpr std::array known{"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    for (std::string_view opening : known) {
      if (stands(opening)) return copy(opening.size());
    }
    // Within an alternative Ruby lets the option reach over the following ones, PCRE2 does not.
    if (at_ == 0 && stands("(?i)")) return copy(4);
    if (peek(1) == '?' || peek(1) == '*') return refuse(fmt::format("group {}", pattern_.substr(at_, 4)));
    copy(1);
  }

  // {n} {n,} {n,m} {,m}; any other brace is a character.
  void interval() {
    auto end = at_ + 1;
    std::size_t commas = 0;
    std::size_t digits = 0;
    while (end < pattern_.size() && (is_digit(pattern_[end]) || pattern_[end] == ',')) {
      pattern_[end] == ',' ? ++commas : ++digits;
      ++end;
    }
    if (end >= pattern_.size() || pattern_[end] != '}' || commas > 1 || digits == 0) return put("\\{", 1);
    auto after = end + 1 < pattern_.size() ? pattern_[end + 1] : '\0';
    auto text = pattern_.substr(at_, end + 2 - at_);
    if (after == '+' || (after == '?' && commas == 0)) return refuse(fmt::format("quantifier {}", text));
    if (pattern_[at_ + 1] == ',') put("{0", 1);
    copy(end + 1 - at_);
  }

  void character_class() {
    copy(1);
    if (peek(0) == '^') copy(1);
    if (peek(0) == ']') return refuse("a character class that begins with ]");
    while (!refused_) {
      if (at_ >= pattern_.size()) return refuse("a character class without an end");
      if (pattern_[at_] == ']') return copy(1);
      if (pattern_[at_] == '[') return refuse("a character class within a character class");
      if (stands("&&")) return refuse("&& within a character class");
      pattern_[at_] == '\\' ? escape(true) : copy(1);
    }
  }

  // `text` stands for a class of characters: within brackets as it is, else in brackets of its own.
  void members(std::string_view text, bool in_class) {
    put(in_class ? std::string{text} : fmt::format("[{}]", text), 2);
  }

  void escape(bool in_class) {
    auto letter = peek(1);
    switch (letter) {
      case 's':
        return members(space_members, in_class);
      case 'S':
        return in_class ? put(R"(\S\x{180e})", 2) : put(fmt::format("[^{}]", space_members), 2);
      case 'w':
        return members(word_members, in_class);
      case 'W':
        if (in_class) return refuse("\\W within a character class");
        return put(fmt::format("[^{}]", word_members), 2);
      case 'd':
        return put("\\p{Nd}", 2);
      case 'D':
        return put("\\P{Nd}", 2);
      case 'v':
        return put("\\x{0b}", 2);
      case 'n':
      case 'r':
      case 't':
      case 'f':
      case 'a':
      case 'e':
        return copy(2);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return hexadecimal();
      case 'u':
        return four_digits();
      case 'A':
      case 'z':
        if (!in_class) return copy(2);
        break;
      default:
        break;
    }
    if (letter == '\0' || is_letter(letter) || is_digit(letter)) return refuse(fmt::format("escape \\{}", letter));
    copy(2);
  }

  void property() {
    auto end = pattern_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) return refuse("\\p without a name in braces");
    copy(end + 1 - at_);
  }

  void hexadecimal() {
    auto begin = at_ + 2;
    if (peek(2) == '{') {
      auto end = begin + 1;
      while (end < pattern_.size() && is_hex(pattern_[end])) ++end;
      if (end == begin + 1 || end >= pattern_.size() || pattern_[end] != '}') return refuse("\\x{ without a number");
      return copy(end + 1 - at_);
    }
    // Above 7F Oniguruma means a byte, not a character.
    if (!is_digit(peek(2)) || peek(2) > '7' || !is_hex(peek(3))) return refuse("\\x without two digits below 80");
    put(fmt::format("\\x{{{}}}", pattern_.substr(begin, 2)), 4);
  }

  void four_digits() {
    for (std::size_t i = 2; i < 6; ++i) {
      if (!is_hex(peek(i))) return refuse("\\u without four digits");
    }
    put(fmt::format("\\x{{{}}}", pattern_.substr(at_ + 2, 4)), 6);
  }

  std::string_view pattern_;
  std::size_t at_{};
  std::string out_;
  std::optional<std::string> refused_;
};

}  // namespace

result<std::string> to_pcre2(std::string_view pattern) { return translator{pattern}.run(); }

}  // namespace troupe::model
