// Stands in for Debian's libfmt-dev where scripts/gpu-check builds: fmt::format with plain "{}" and nothing else, which
// is all that compute/ and its plug-in use. Any other replacement field stops the program.
#pragma once

#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>

namespace fmt {

namespace stand_in {

inline std::string text_of(std::string_view value) { return std::string{value}; }
template <class Number>
requires std::is_arithmetic_v<Number> std::string text_of(Number value) {
  char text[64];
  return {text, std::to_chars(text, text + sizeof text, value).ptr};
}

}  // namespace stand_in

template <class... Values>
[[nodiscard]] std::string format(std::string_view pattern, const Values&... values) {
  const std::string texts[] = {stand_in::text_of(values)..., std::string{}};
  std::string out;
  std::size_t next = 0;
  for (std::size_t at = pattern.find('{'); at != std::string_view::npos; at = pattern.find('{')) {
    if (!pattern.substr(at).starts_with("{}") || next == sizeof...(values)) std::abort();
    out += pattern.substr(0, at);
    out += texts[next++];
    pattern.remove_prefix(at + 2);
  }
  return out += pattern;
}

}  // namespace fmt
