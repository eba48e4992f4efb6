#include "common/http/target.hpp"

#include <algorithm>

#include "common/http/message.hpp"

namespace troupe::http {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char l = lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

std::optional<std::string> decode(std::string_view text) {
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_value(text[i + 1]);
    const int low = hex_value(text[i + 2]);
    if (high < 0 || low < 0 || (high == 0 && low == 0)) return std::nullopt;
    decoded += static_cast<char>(high << 4 | low);
    i += 2;
  }
  return decoded;
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, [](char x, char y) { return lower(x) == lower(y); });
}

const std::string* find_header(const header_list& headers, std::string_view name) {
  for (const auto& [key, value] : headers) {
    if (equal_ignoring_case(key, name)) return &value;
  }
  return nullptr;
}

bool has_query_key(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const auto end = query.find('&');
    const auto pair = query.substr(0, end);
    if (pair.substr(0, pair.find('=')) == name) return true;
    query = end == std::string_view::npos ? std::string_view{} : query.substr(end + 1);
  }
  return false;
}

bool split_target(std::string_view target, std::string& path, std::string& query) {
  if (target.empty() || target.front() != '/') return false;
  const auto mark = target.find('?');
  auto decoded = decode(target.substr(0, mark));
  if (!decoded) return false;
  path = std::move(*decoded);
  query = mark == std::string_view::npos ? std::string{} : std::string(target.substr(mark + 1));
  return true;
}

std::optional<std::string> match_path(std::string_view route_path, std::string_view path) {
  const auto brace = route_path.find('{');
  if (brace == std::string_view::npos) return route_path == path ? std::optional<std::string>("") : std::nullopt;
  const auto prefix = route_path.substr(0, brace);
  if (path.size() <= prefix.size() || path.substr(0, prefix.size()) != prefix) return std::nullopt;
  const auto rest = path.substr(prefix.size());
  return rest.find('/') == std::string_view::npos ? std::optional<std::string>(rest) : std::nullopt;
}

std::optional<endpoint_text> split_endpoint(std::string_view address) {
  const auto colon = address.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  auto host = address.substr(0, colon);
  const auto port = address.substr(colon + 1);
  if (port.empty() || port.size() > 5 || !std::ranges::all_of(port, [](char c) { return c >= '0' && c <= '9'; })) {
    return std::nullopt;
  }
  if (host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return std::nullopt;
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":/") != std::string_view::npos) {
    return std::nullopt;
  }
  return endpoint_text{std::string(host), std::string(port)};
}

}  // namespace troupe::http
