// Patterns of tokenizer.json are written for Oniguruma in Ruby's syntax. This says them in PCRE2's, for UTF and UCP
// mode.
#pragma once

#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::model {

// invalid_request naming the first construct that the two libraries understand differently, or that no tokenizer uses
// (back references, nested classes, recursion, ...).
[[nodiscard]] result<std::string> to_pcre2(std::string_view pattern);

}  // namespace troupe::model
