#include <openssl/evp.h>

#include <charconv>
#include <cstdlib>

#include <fmt/format.h>

#include "model/checkpoint.hpp"

namespace troupe::model {

sha256_digest digest_of(std::span<const std::byte> bundle_bytes) {
  sha256_digest digest{};
  unsigned length = 0;
  // Fails only where OpenSSL is broken or out of memory: no caller could go on.
  if (EVP_Digest(bundle_bytes.data(), bundle_bytes.size(), reinterpret_cast<unsigned char*>(digest.data()), &length,
                 EVP_sha256(), nullptr) != 1 ||
      length != digest.size()) {
    std::abort();
  }
  return digest;
}

std::string to_hex(const sha256_digest& digest) {
  std::string text;
  for (auto byte : digest) text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

std::optional<sha256_digest> parse_digest(std::string_view hex) {
  sha256_digest digest{};
  if (hex.size() != 2 * digest.size()) return std::nullopt;
  for (std::size_t i = 0; i < digest.size(); ++i) {
    unsigned value = 0;
    const auto* begin = hex.data() + 2 * i;
    auto [end, failure] = std::from_chars(begin, begin + 2, value, 16);
    if (failure != std::errc{} || end != begin + 2) return std::nullopt;
    digest[i] = static_cast<std::byte>(value);
  }
  return digest;
}

}  // namespace troupe::model
