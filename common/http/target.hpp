// Internal to common/http: the small text work on request targets and header names.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::http {

[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b);

// "/a%20b?x" -> "/a b", "x". False when it does not begin with '/', or an escape is malformed or stands for a NUL.
[[nodiscard]] bool split_target(std::string_view target, std::string& path, std::string& query);

// "/v1/layers/{layer}" against "/v1/layers/3" -> "3"; a route without a parameter -> "". nullopt: no match.
[[nodiscard]] std::optional<std::string> match_path(std::string_view route_path, std::string_view path);

struct endpoint_text {
  std::string host;
  std::string port;
};

// "127.0.0.1:80", "[::1]:80", "localhost:0", "http://..." is refused. nullopt when there is no port.
[[nodiscard]] std::optional<endpoint_text> split_endpoint(std::string_view address);

}  // namespace troupe::http
