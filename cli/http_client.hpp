// HTTP requests to routers: plain http, one connection each. Any thread; a call returns when the answer has ended.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::cli {

struct http_answer {
  unsigned status{};
  std::string body;
};

// `http://HOST[:PORT]/path`, HOST a name, an address, or an IPv6 address in brackets. invalid_request for anything
// else.
struct http_url {
  std::string host;
  std::string port{"80"};
  std::string target{"/"};

  [[nodiscard]] static result<http_url> parse(std::string_view text);
};

// unavailable when nobody answers, timeout when the answer is not complete in time, too_large above
// limits::http_json_body_bytes_max.
[[nodiscard]] result<http_answer> http_get(const std::string& url, std::chrono::milliseconds timeout);

// Posts JSON and gives the answer's body to `on_body` as it comes; false ends the exchange. `is_wanted` is asked a few
// times a second: false ends it, too, without an error. @returns the status
[[nodiscard]] result<unsigned> http_post(const std::string& url, const std::string& json,
                                         const std::function<bool(std::string_view)>& on_body,
                                         const std::function<bool()>& is_wanted, std::chrono::milliseconds timeout);

}  // namespace troupe::cli
