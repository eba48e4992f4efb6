// What travels from the text to the tokens: the text cut into pieces, some of which are tokens already.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/ids.hpp"

namespace troupe::model {

struct piece {
  std::string text;  // valid UTF-8, not empty
  // Its first character is what became of the first one of the whole text.
  bool at_start{};
  std::optional<token_number> token;  // decided (an added token): no later step changes the piece
};

using piece_list = std::vector<piece>;

}  // namespace troupe::model
