// Turns one piece of text into tokens: byte pair encoding or a unigram model.
#pragma once

#include <string_view>
#include <vector>

#include "common/ids.hpp"

namespace troupe::model {

// Immutable; const calls from many threads are safe.
class subword_model {
 public:
  virtual ~subword_model() = default;
  // Appends the tokens of `text`, which is valid UTF-8.
  virtual void append_tokens(std::string_view text, std::vector<token_number>& tokens) const = 0;
};

}  // namespace troupe::model
