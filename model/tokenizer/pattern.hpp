// What a tokenizer looks for in text: a fixed string or a regular expression (PCRE2, Unicode).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe::model {

struct match_range {
  std::size_t begin;
  std::size_t end;  // behind the last byte; an expression may match nothing, then it is `begin`
  bool matched;
};

// The text with what matched replaced. @pre the ranges cover the text.
[[nodiscard]] std::string replace_matches(std::string_view text, const std::vector<match_range>& ranges,
                                          std::string_view content);

// Immutable; const calls from many threads are safe.
class pattern {
 public:
  // Finds nothing when the text is empty.
  [[nodiscard]] static pattern literal(std::string text);
  // `expression` in Oniguruma's dialect. invalid_request with the reason when it cannot be used.
  [[nodiscard]] static result<pattern> regex(std::string_view expression);

  // Matches from left to right and what lies between them; together they cover the text. An expression that needs more
  // steps than limits::regex_steps_max somewhere finds nothing more from there on. @pre valid UTF-8.
  [[nodiscard]] std::vector<match_range> find_all(std::string_view text) const;
  // The text with every match replaced. @pre valid UTF-8.
  [[nodiscard]] std::string replace_all(std::string_view text, std::string_view content) const {
    return replace_matches(text, find_all(text), content);
  }

  // A fixed string of one character: may be looked for in parts of a text.
  [[nodiscard]] bool is_one_character() const;
  // Bytes that every match has at least.
  [[nodiscard]] std::size_t match_bytes_min() const { return match_bytes_min_; }

 private:
  struct compiled;
  pattern() = default;
  void find_literal(std::string_view text, std::vector<match_range>& found) const;
  void find_expression(std::string_view text, std::vector<match_range>& found) const;

  std::string text_;
  std::size_t match_bytes_min_{};
  std::shared_ptr<const compiled> expression_;
};

}  // namespace troupe::model
