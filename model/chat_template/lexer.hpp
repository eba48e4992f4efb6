// Cuts a template into text and tokens, with white space removed as Jinja2 does under trim_blocks and lstrip_blocks
// (the environment of transformers).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/chat_template/syntax.hpp"

namespace troupe::model::jinja {

enum class token_kind : std::uint8_t {
  text,        // between tags
  open_value,  // {{
  close_value,
  open_block,  // {%
  close_block,
  name,
  string,
  integer,
  decimal,
  symbol,  // one of ( ) [ ] { } . , : | = == != < <= > >= + - * / // % ** ~
  end,
};

struct token {
  token_kind kind{token_kind::end};
  std::string text;  // of strings: without quotes, escapes resolved
  position at;
};

// Throws failure with the place.
[[nodiscard]] std::vector<token> lex(std::string_view source);

}  // namespace troupe::model::jinja
