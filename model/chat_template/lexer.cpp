#include "model/chat_template/lexer.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

#include "model/chat_template/text.hpp"

namespace troupe::model::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_character(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || is_digit(c); }

// Jinja2 reads every kind of line end as '\n' and drops one at the end of the source.
std::string with_plain_line_ends(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

void append_utf8(std::string& out, std::uint32_t point) {
  const auto tail = [&out](std::uint32_t bits) { out += static_cast<char>(0x80U | (bits & 0x3fU)); };
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xc0U | (point >> 6U));
    tail(point);
  } else if (point < 0x10000) {
    out += static_cast<char>(0xe0U | (point >> 12U));
    tail(point >> 6U);
    tail(point);
  } else {
    out += static_cast<char>(0xf0U | (point >> 18U));
    tail(point >> 12U);
    tail(point >> 6U);
    tail(point);
  }
}

class lexer {
 public:
  explicit lexer(std::string_view source) : source_(with_plain_line_ends(source)) {}

  std::vector<token> run() {
    while (offset_ < source_.size()) read_text();
    add(token_kind::end, "", here());
    return std::move(tokens_);
  }

 private:
  [[nodiscard]] position here() { return locate(offset_); }

  position locate(std::size_t offset) {
    while (counted_ < offset) {
      const auto c = static_cast<unsigned char>(source_[counted_++]);
      if (c == '\n') {
        ++place_.line;
        place_.column = 1;
      } else if ((c & 0xc0U) != 0x80U) {
        ++place_.column;
      }
    }
    return place_;
  }

  [[noreturn]] void fail(const std::string& message) {
    failure f(message);
    const auto at = here();
    f.locate(at.line, at.column);
    throw f;
  }

  void add(token_kind kind, std::string text, position at) { tokens_.push_back({kind, std::move(text), at}); }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return offset_ + ahead < source_.size() ? source_[offset_ + ahead] : '\0';
  }
  [[nodiscard]] bool ahead(std::string_view what) const {
    return std::string_view(source_).substr(offset_).starts_with(what);
  }

  // Text up to the next tag, and the tag.
  void read_text() {
    const auto start = here();
    const std::string_view rest = std::string_view(source_).substr(offset_);
    std::size_t at = rest.find('{');
    while (at != std::string_view::npos &&
           (at + 1 == rest.size() || std::string_view("{%#").find(rest[at + 1]) == std::string_view::npos)) {
      at = rest.find('{', at + 1);
    }
    if (at == std::string_view::npos) {
      add(token_kind::text, std::string(rest), start);
      offset_ = source_.size();
      return;
    }
    const char tag = rest[at + 1];
    const char sign = at + 2 < rest.size() ? rest[at + 2] : '\0';
    const auto text = without_indent(rest.substr(0, at), tag, sign);
    if (!text.empty()) add(token_kind::text, std::string(text), start);
    offset_ += at;
    if (tag == '#') return skip_comment();
    const auto opened = here();
    offset_ += sign == '-' || sign == '+' ? 3 : 2;
    add(tag == '{' ? token_kind::open_value : token_kind::open_block, "", opened);
    read_tag(tag == '{');
  }

  // What is left of the text before a tag: all white space goes for "{%-", the line's indentation for "{%" and "{#".
  [[nodiscard]] std::string_view without_indent(std::string_view text, char tag, char sign) const {
    if (sign == '-') return strip(text, std::nullopt, side::right);
    if (sign == '+' || tag == '{') return text;
    const auto line = text.rfind('\n') + 1;  // 0 when there is none
    if (line == 0 && !at_line_start_) return text;
    return strip(text.substr(line), std::nullopt, side::left).empty() ? text.substr(0, line) : text;
  }

  void skip_comment() {
    const auto begin = offset_ + (peek(2) == '-' || peek(2) == '+' ? 3 : 2);
    const auto end = source_.find("#}", begin);
    if (end == std::string::npos) fail("the comment does not end");
    const char sign = end > begin ? source_[end - 1] : '\0';
    offset_ = end + 2;
    finish_tag(sign, true);
  }

  // Behind a tag: "-" swallows all white space, a block or comment without "+" the line end.
  void finish_tag(char sign, bool is_block) {
    at_line_start_ = false;
    if (sign == '-') {
      const auto rest = std::string_view(source_).substr(offset_);
      offset_ += rest.size() - strip(rest, std::nullopt, side::left).size();
      at_line_start_ = source_[offset_ - 1] == '\n';
    } else if (is_block && sign != '+' && peek() == '\n') {
      ++offset_;
      at_line_start_ = true;
    }
  }

  void read_tag(bool is_value) {
    const std::string_view end = is_value ? "}}" : "%}";
    for (std::size_t open = 0;;) {
      while (offset_ < source_.size() && is_space(decode_at(source_, offset_).first)) {
        offset_ += decode_at(source_, offset_).second;
      }
      if (offset_ >= source_.size()) fail(fmt::format("'{}' is missing", end));
      const bool has_sign = peek() == '-' || (peek() == '+' && !is_value);
      if (open == 0 && std::string_view(source_).substr(offset_ + (has_sign ? 1 : 0)).starts_with(end)) {
        const char sign = has_sign ? peek() : '\0';
        add(is_value ? token_kind::close_value : token_kind::close_block, "", here());
        offset_ += end.size() + (has_sign ? 1 : 0);
        return finish_tag(sign, !is_value);
      }
      read_token();
      const auto& last = tokens_.back();
      if (last.kind != token_kind::symbol) continue;
      if (last.text == "(" || last.text == "[" || last.text == "{") ++open;
      if (last.text == ")" || last.text == "]" || last.text == "}") {
        if (open == 0) fail(fmt::format("'{}' closes nothing", last.text));
        --open;
      }
    }
  }

  void read_token() {
    const auto at = here();
    const char c = peek();
    if (is_digit(c)) return read_number();
    if (is_name_character(c)) {
      std::string name;
      while (is_name_character(peek())) name += source_[offset_++];
      return add(token_kind::name, std::move(name), at);
    }
    if (c == '"' || c == '\'') return read_string(c);
    static constexpr std::array<std::string_view, 6> pairs{"==", "!=", "<=", ">=", "//", "**"};
    for (const auto& pair : pairs) {
      if (!ahead(pair)) continue;
      offset_ += 2;
      return add(token_kind::symbol, std::string(pair), at);
    }
    if (std::string_view("()[]{}.,:|=<>+-*/%~").find(c) == std::string_view::npos || c == '\0') {
      fail(fmt::format("construct '{}' is not supported", source_.substr(offset_, decode_at(source_, offset_).second)));
    }
    ++offset_;
    add(token_kind::symbol, std::string(1, c), at);
  }

  void read_number() {
    const auto at = here();
    std::string digits;
    bool decimal = false;
    while (is_digit(peek()) || (peek() == '_' && is_digit(peek(1)))) {
      if (peek() != '_') digits += peek();
      ++offset_;
    }
    if (peek() == '.' && is_digit(peek(1))) {
      decimal = true;
      do digits += source_[offset_++];
      while (is_digit(peek()));
    }
    const bool signed_exponent = peek(1) == '+' || peek(1) == '-';
    if ((peek() == 'e' || peek() == 'E') && is_digit(peek(signed_exponent ? 2 : 1))) {
      decimal = true;
      digits.append(source_, offset_, signed_exponent ? 2 : 1);
      offset_ += signed_exponent ? 2 : 1;
      while (is_digit(peek())) digits += source_[offset_++];
    }
    if (is_name_character(peek())) fail(fmt::format("construct '{}{}' is not supported", digits, peek()));
    add(decimal ? token_kind::decimal : token_kind::integer, std::move(digits), at);
  }

  void read_string(char quote) {
    const auto at = here();
    std::string out;
    for (++offset_; peek() != quote || offset_ >= source_.size();) {
      if (offset_ >= source_.size()) fail("the string does not end");
      if (peek() != '\\') {
        out += source_[offset_++];
      } else {
        read_escape(out);
      }
    }
    ++offset_;
    add(token_kind::string, std::move(out), at);
  }

  // As Python's "unicode-escape"; what is no escape stays as it stands.
  void read_escape(std::string& out) {
    static constexpr std::string_view letters = "\\'\"abfnrtv";
    static constexpr std::string_view meant = "\\'\"\a\b\f\n\r\t\v";
    const char c = peek(1);
    if (offset_ + 1 >= source_.size()) fail("the string does not end");
    if (const auto known = letters.find(c); known != std::string_view::npos) {
      out += meant[known];
      offset_ += 2;
    } else if (c == '\n') {
      offset_ += 2;
    } else if (c == 'x' || c == 'u' || c == 'U') {
      read_code_point(out, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (is_digit(c) || c == 'N') {
      fail(fmt::format("construct '\\{}' is not supported", c));
    } else {
      out += '\\';
      ++offset_;
    }
  }

  void read_code_point(std::string& out, std::size_t digits) {
    std::uint32_t point = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char c = peek(2 + i);
      const char low = static_cast<char>(c | 0x20);
      if (!is_digit(c) && (low < 'a' || low > 'f')) fail("the escape needs more hexadecimal digits");
      point = point * 16 + static_cast<std::uint32_t>(is_digit(c) ? c - '0' : low - 'a' + 10);
    }
    if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) fail("the escape stands for no character");
    append_utf8(out, point);
    offset_ += 2 + digits;
  }

  const std::string source_;
  std::vector<token> tokens_;
  std::size_t offset_{};
  bool at_line_start_{true};
  std::size_t counted_{};  // how far place_ has been counted
  position place_;
};

}  // namespace

std::vector<token> lex(std::string_view source) { return lexer(source).run(); }

}  // namespace troupe::model::jinja
