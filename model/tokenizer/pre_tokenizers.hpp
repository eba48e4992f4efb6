// Pre-tokenizers: cut the text into the words within which the model looks for tokens.
#pragma once

#include <memory>

#include "model/tokenizer/construct.hpp"
#include "model/tokenizer/piece.hpp"

namespace troupe::model {

// Immutable; const calls from many threads are safe.
class pre_tokenizer {
 public:
  virtual ~pre_tokenizer() = default;
  virtual void apply(piece_list& pieces) const = 0;  // leaves tokens alone, leaves no empty piece
};

// nullptr when it is not supported, which is then among the problems.
[[nodiscard]] std::unique_ptr<const pre_tokenizer> read_pre_tokenizer(construct source);

}  // namespace troupe::model
