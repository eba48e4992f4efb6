// Where characters of untrusted text begin and end. Any thread.
#pragma once

#include <cstddef>
#include <string_view>

namespace troupe {

// Bytes of the well-formed UTF-8 sequence (RFC 3629) that `text`, not empty, begins with; 0: it begins with none.
[[nodiscard]] std::size_t utf8_sequence_bytes(std::string_view text);

}  // namespace troupe
