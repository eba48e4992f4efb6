// Errors as OpenAI error objects: {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <string>
#include <string_view>

#include "common/error.hpp"
#include "common/http/message.hpp"

namespace troupe::http {

// Status, type and code follow from the project's code; adds Retry-After where a retry may help and
// `x-should-retry: false` where it cannot. `param`: the field at fault, or empty (null).
[[nodiscard]] response to_response(const error& e, std::string_view param = {});

// An error of the HTTP layer itself (404, 405, 408, 413, 431, ...).
[[nodiscard]] response error_response(unsigned status, std::string_view code, std::string_view message,
                                      std::string_view param = {});

[[nodiscard]] unsigned to_status(errc code);

}  // namespace troupe::http
