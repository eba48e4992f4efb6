// One short HTTP GET to a daemon of this machine, to learn whether it is ready. Any thread.
#pragma once

#include <chrono>
#include <string>

#include "common/error.hpp"

namespace troupe::cli {

struct http_answer {
  long status{};
  std::string body;
};

// unavailable when nobody answers, timeout when the answer is not complete in time.
[[nodiscard]] result<http_answer> http_get(const std::string& url, std::chrono::milliseconds timeout);

}  // namespace troupe::cli
