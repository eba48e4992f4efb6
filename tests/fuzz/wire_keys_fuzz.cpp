// The list of authorised keys, and addresses: text that people write. What is accepted must be what it says.
#include <cstdlib>
#include <string_view>

#include "common/wire/address.hpp"
#include "common/wire/keys.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace troupe;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto keys = wire::parse_authorized(text)) {
    for (const auto& key : *keys) {
      if (!wire::is_valid_key(key.public_key) || wire::role_of_user(wire::user_id_of(key)) != key.role) std::abort();
    }
  }
  for (const auto which : {wire::sibling::heartbeat, wire::sibling::admin, wire::sibling::peer}) {
    const auto sibling = wire::sibling_address(text, which);
    if (sibling && *sibling == text) std::abort();
  }
  return 0;
}
