// The normalization table of a sentencepiece model: strings and what replaces them, the longest string first. Bytes:
// u32 size of the trie, the trie (a double array of darts-clone, u32 units), the replacements, each ended by a zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe::model {

// Immutable; const calls from many threads are safe. Nothing in the table can lead outside of it.
class character_map {
 public:
  struct replacement {
    std::size_t bytes;      // of the text that it replaces
    std::string_view text;  // valid as long as the map
  };

  character_map() = default;  // replaces nothing
  // invalid_request when the sizes contradict each other.
  [[nodiscard]] static result<character_map> parse(std::string_view bytes);

  // For the longest string in the table with which `text` begins.
  [[nodiscard]] std::optional<replacement> longest(std::string_view text) const;
  [[nodiscard]] std::size_t replacement_bytes_max() const { return replacement_bytes_max_; }

 private:
  std::vector<std::uint32_t> units_;
  std::string texts_;
  std::size_t replacement_bytes_max_{};
};

}  // namespace troupe::model
