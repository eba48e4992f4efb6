// Normalizers: change the text before it is cut (Unicode forms, spaces to U+2581, ...).
#pragma once

#include <memory>

#include "model/tokenizer/construct.hpp"
#include "model/tokenizer/piece.hpp"

namespace troupe::model {

// Immutable; const calls from many threads are safe.
class normalizer {
 public:
  virtual ~normalizer() = default;
  virtual void apply(piece& changed) const = 0;  // may leave an empty text
};

// nullptr when it is not supported, which is then among the problems.
[[nodiscard]] std::unique_ptr<const normalizer> read_normalizer(construct source);

}  // namespace troupe::model
