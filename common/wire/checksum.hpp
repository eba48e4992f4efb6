// Checksums that travel with every envelope and tensor part. They find bytes that were damaged in transit or by a bug;
// they are no protection against an attacker, who is kept out by CURVE.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace troupe::wire {

// The number stands in the preamble of every message; a receiver answers in the kind that it was asked in.
enum class checksum_kind : std::uint8_t {
  xxh3 = 1,   // XXH3-64: between our own processes
  crc32 = 2,  // zlib's CRC-32 in the low half: for clients without an xxHash library
};

// nullopt when the number is no kind that this build knows.
[[nodiscard]] std::optional<checksum_kind> parse_checksum_kind(std::uint8_t number);

[[nodiscard]] std::uint64_t checksum(checksum_kind kind, std::span<const std::byte> bytes);

}  // namespace troupe::wire
