#include "model/tokenizer/character_map.hpp"

#include <algorithm>
#include <cstring>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

constexpr std::size_t unit_bytes = sizeof(std::uint32_t);

std::uint32_t read_unit(std::string_view bytes) {
  std::uint32_t unit = 0;
  for (std::size_t i = 0; i < unit_bytes; ++i) unit |= std::uint32_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return unit;
}

// What the bits of a unit mean in darts-clone.
bool has_leaf(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t value_of(std::uint32_t leaf) { return leaf & 0x7FFF'FFFFU; }
std::uint32_t label_of(std::uint32_t unit) { return unit & 0x8000'00FFU; }
std::uint32_t offset_of(std::uint32_t unit) { return (unit >> 10) << ((unit & 0x200U) >> 6); }

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

result<character_map> character_map::parse(std::string_view bytes) {
  character_map map;
  if (bytes.empty()) return map;
  auto trie_bytes = bytes.size() > unit_bytes ? read_unit(bytes) : 0;
  if (trie_bytes < unit_bytes || trie_bytes % unit_bytes != 0 || trie_bytes >= bytes.size() - unit_bytes ||
      bytes.back() != '\0') {
    return fail(errc::invalid_request, "precompiled_charsmap is damaged; restore the file");
  }
  bytes.remove_prefix(unit_bytes);
  for (std::size_t i = 0; i < trie_bytes; i += unit_bytes) map.units_.push_back(read_unit(bytes.substr(i)));
  map.texts_ = bytes.substr(trie_bytes);
  if (!is_valid_utf8(map.texts_))
    return fail(errc::invalid_request, "precompiled_charsmap is not UTF-8; restore the file");
  for (std::size_t begin = 0; begin < map.texts_.size();) {
    auto end = map.texts_.find('\0', begin);
    map.replacement_bytes_max_ = std::max(map.replacement_bytes_max_, end - begin);
    begin = end + 1;
  }
  return map;
}

std::optional<character_map::replacement> character_map::longest(std::string_view text) const {
  std::optional<replacement> found;
  if (units_.empty()) return found;
  auto position = offset_of(units_[0]);
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto byte = static_cast<unsigned char>(text[i]);
    position ^= byte;
    if (position >= units_.size() || label_of(units_[position]) != byte) break;
    auto unit = units_[position];
    position ^= offset_of(unit);
    if (!has_leaf(unit) || position >= units_.size()) continue;
    auto value = value_of(units_[position]);
    // A hostile table may point into the middle of a character, or end there in the text.
    if (value >= texts_.size() || continues_character(texts_[value])) continue;
    if (i + 1 < text.size() && continues_character(text[i + 1])) continue;
    found = replacement{i + 1, std::string_view{texts_.c_str() + value}};
  }
  return found;
}

}  // namespace troupe::model
