// The strings of a vocabulary and their numbers, both ways.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/ids.hpp"

namespace troupe::model {

// Lets a map of strings be asked with a string_view.
struct text_hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

class vocabulary {
 public:
  // false when the string is there already with another number, the number with another string, or the number is not
  // below limits::token_numbers_max.
  [[nodiscard]] bool add(std::string text, token_number number);

  [[nodiscard]] std::optional<token_number> find(std::string_view text) const;
  // nullptr: no string has this number.
  [[nodiscard]] const std::string* text_of(token_number number) const;
  // All numbers are below it; some of those below may be unused.
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(texts_.size()); }
  [[nodiscard]] std::size_t bytes_max() const { return bytes_max_; }  // of the longest string

 private:
  std::unordered_map<std::string, token_number, text_hash, std::equal_to<>> numbers_;
  std::vector<std::optional<std::string>> texts_;
  std::size_t bytes_max_{};
};

// Byte fallback: the token "<0x0A>" stands for the byte 0A.
[[nodiscard]] std::string byte_token(unsigned char byte);
[[nodiscard]] std::optional<unsigned char> byte_of_token(std::string_view token);

}  // namespace troupe::model
