#include "common/wire/checksum.hpp"

#include <xxh_x86dispatch.h>  // XXH3 with the widest vectors that this processor has
#include <zlib.h>

namespace troupe::wire {

std::optional<checksum_kind> parse_checksum_kind(std::uint8_t number) {
  switch (static_cast<checksum_kind>(number)) {
    case checksum_kind::xxh3:
    case checksum_kind::crc32:
      return static_cast<checksum_kind>(number);
  }
  return std::nullopt;
}

std::uint64_t checksum(checksum_kind kind, std::span<const std::byte> bytes) {
  if (kind == checksum_kind::xxh3) return XXH3_64bits(bytes.data(), bytes.size());
  const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
  return crc32_z(crc32_z(0, nullptr, 0), data, bytes.size());
}

}  // namespace troupe::wire
