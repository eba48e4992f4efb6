#include "model/tokenizer/protobuf_fields.hpp"

#include <bit>
#include <cstddef>

namespace troupe::model {
namespace {

enum wire_type : std::uint32_t { varint = 0, fixed_64 = 1, length_delimited = 2, fixed_32 = 5 };

}  // namespace

bool protobuf_fields::damage() {
  damaged_ = true;
  return false;
}

bool protobuf_fields::take_varint(std::uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    if (rest_.empty()) return damage();
    auto byte = static_cast<unsigned char>(rest_[0]);
    rest_.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7FU} << shift;
    if (byte < 0x80) return true;
  }
  return damage();
}

// Little endian.
bool protobuf_fields::take_fixed(std::size_t bytes) {
  if (rest_.size() < bytes) return damage();
  for (std::size_t i = 0; i < bytes; ++i) integer_ |= std::uint64_t{static_cast<unsigned char>(rest_[i])} << (8 * i);
  rest_.remove_prefix(bytes);
  return true;
}

bool protobuf_fields::next() {
  bytes_ = {};
  integer_ = 0;
  if (rest_.empty() || damaged_) return false;
  std::uint64_t tag = 0;
  if (!take_varint(tag)) return false;
  number_ = static_cast<std::uint32_t>(tag >> 3);
  if (number_ == 0 || tag >> 3 != number_) return damage();
  switch (tag & 7) {
    case varint:
      return take_varint(integer_);
    case fixed_64:
      return take_fixed(8);
    case fixed_32:
      return take_fixed(4);
    case length_delimited: {
      std::uint64_t length = 0;
      if (!take_varint(length) || length > rest_.size()) return damage();
      bytes_ = rest_.substr(0, length);
      rest_.remove_prefix(length);
      return true;
    }
    default:
      return damage();
  }
}

float protobuf_fields::real() const { return std::bit_cast<float>(static_cast<std::uint32_t>(integer_)); }

}  // namespace troupe::model
