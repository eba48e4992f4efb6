#include "model/tokenizer/vocabulary.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::model {

bool vocabulary::add(std::string text, token_number number) {
  if (number >= limits::token_numbers_max) return false;
  if (number >= texts_.size()) texts_.resize(number + 1);
  auto& place = texts_[number];
  if (place) return *place == text;
  if (!numbers_.emplace(text, number).second) return false;
  bytes_max_ = std::max(bytes_max_, text.size());
  place = std::move(text);
  return true;
}

std::optional<token_number> vocabulary::find(std::string_view text) const {
  auto found = numbers_.find(text);
  if (found == numbers_.end()) return std::nullopt;
  return found->second;
}

const std::string* vocabulary::text_of(token_number number) const {
  return number < texts_.size() && texts_[number] ? &*texts_[number] : nullptr;
}

std::string byte_token(unsigned char byte) { return fmt::format("<0x{:02X}>", byte); }

std::optional<unsigned char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (char digit : token.substr(3, 2)) {
    auto lower = digit | 0x20;
    if (digit >= '0' && digit <= '9') {
      value = value * 16 + static_cast<unsigned>(digit - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value * 16 + static_cast<unsigned>(lower - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return static_cast<unsigned char>(value);
}

}  // namespace troupe::model
