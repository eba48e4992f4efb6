#include "model/chat_template/text.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "model/chat_template/value.hpp"

namespace troupe::model::jinja {
namespace {

constexpr bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
constexpr bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
constexpr char to_upper(char c) { return is_lower(c) ? static_cast<char>(c - 'a' + 'A') : c; }
constexpr char to_lower(char c) { return is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c; }

std::string ascii_only(std::string_view s, std::string_view what) {
  if (std::ranges::any_of(s, [](char c) { return (static_cast<unsigned char>(c) & 0x80U) != 0; })) {
    throw failure(fmt::format("construct {} of text beyond ASCII is not supported", what));
  }
  return std::string(s);
}

bool contains(std::string_view characters_of, std::string_view one) {
  for (std::size_t at = 0; at < characters_of.size();) {
    const auto bytes = decode_at(characters_of, at).second;
    if (characters_of.substr(at, bytes) == one) return true;
    at += bytes;
  }
  return false;
}

// Where the last character of `s` begins.
std::size_t last_character(std::string_view s) {
  auto at = s.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(s[at]) & 0xc0U) == 0x80U) --at;
  return at;
}

bool is_line_end(char32_t c) {
  return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

std::vector<std::string> split_at_space(std::string_view s, std::int64_t splits_max) {
  std::vector<std::string> out;
  s = strip(s, std::nullopt, side::left);
  while (!s.empty()) {
    if (splits_max >= 0 && static_cast<std::int64_t>(out.size()) == splits_max) {
      out.emplace_back(strip(s, std::nullopt, side::right));
      break;
    }
    std::size_t end = 0;
    while (end < s.size()) {
      const auto [point, bytes] = decode_at(s, end);
      if (is_space(point)) break;
      end += bytes;
    }
    out.emplace_back(s.substr(0, end));
    s = strip(s.substr(end), std::nullopt, side::left);
  }
  return out;
}

}  // namespace

std::pair<char32_t, std::size_t> decode_at(std::string_view s, std::size_t at) {
  const auto first = static_cast<unsigned char>(s[at]);
  const std::size_t bytes = first < 0xc0 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (bytes == 1 || at + bytes > s.size()) return {first, 1};
  auto point = static_cast<char32_t>(first & (0x7fU >> bytes));
  for (std::size_t i = 1; i < bytes; ++i) point = (point << 6U) | (static_cast<unsigned char>(s[at + i]) & 0x3fU);
  return {point, bytes};
}

std::size_t length(std::string_view s) {
  return static_cast<std::size_t>(
      std::ranges::count_if(s, [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

std::vector<std::string_view> characters(std::string_view s) {
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at < s.size(); at += out.back().size()) out.push_back(s.substr(at, decode_at(s, at).second));
  return out;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

std::string_view strip(std::string_view s, std::optional<std::string_view> chars, side where) {
  const auto goes = [&](std::string_view one) {
    return chars ? contains(*chars, one) : is_space(decode_at(one, 0).first);
  };
  while (where != side::right && !s.empty()) {
    const auto one = s.substr(0, decode_at(s, 0).second);
    if (!goes(one)) break;
    s.remove_prefix(one.size());
  }
  while (where != side::left && !s.empty()) {
    const auto begin = last_character(s);
    if (!goes(s.substr(begin))) break;
    s = s.substr(0, begin);
  }
  return s;
}

std::vector<std::string> split(std::string_view s, std::optional<std::string_view> separator, std::int64_t splits_max) {
  if (!separator) return split_at_space(s, splits_max);
  if (separator->empty()) throw failure("split(): the separator is empty");
  std::vector<std::string> out;
  while (splits_max < 0 || static_cast<std::int64_t>(out.size()) < splits_max) {
    const auto at = s.find(*separator);
    if (at == std::string_view::npos) break;
    out.emplace_back(s.substr(0, at));
    s.remove_prefix(at + separator->size());
  }
  out.emplace_back(s);
  return out;
}

std::vector<std::string> split_from_right(std::string_view s, std::string_view separator, std::int64_t splits_max) {
  if (separator.empty()) throw failure("rsplit(): the separator is empty");
  std::vector<std::string> out;
  while (splits_max < 0 || static_cast<std::int64_t>(out.size()) < splits_max) {
    const auto at = s.rfind(separator);
    if (at == std::string_view::npos) break;
    out.emplace_back(s.substr(at + separator.size()));
    s = s.substr(0, at);
  }
  out.emplace_back(s);
  std::ranges::reverse(out);
  return out;
}

std::vector<std::string> split_lines(std::string_view s) {
  std::vector<std::string> out;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < s.size();) {
    const auto [point, bytes] = decode_at(s, at);
    at += bytes;
    if (!is_line_end(point)) continue;
    out.emplace_back(s.substr(begin, at - bytes - begin));
    if (point == U'\r' && at < s.size() && s[at] == '\n') ++at;
    begin = at;
  }
  if (begin < s.size()) out.emplace_back(s.substr(begin));
  return out;
}

std::string replace(std::string_view s, std::string_view from, std::string_view to, std::int64_t times) {
  std::string out;
  if (from.empty()) {  // between all characters
    for (const auto one : characters(s)) {
      if (times != 0) out += to;
      if (times > 0) --times;
      out += one;
    }
    if (times != 0) out += to;
    return out;
  }
  while (times != 0) {
    const auto at = s.find(from);
    if (at == std::string_view::npos) break;
    out.append(s.substr(0, at)).append(to);
    s.remove_prefix(at + from.size());
    if (times > 0) --times;
  }
  return out.append(s);
}

std::int64_t count(std::string_view s, std::string_view part) {
  if (part.empty()) return static_cast<std::int64_t>(length(s)) + 1;
  std::int64_t found = 0;
  for (auto at = s.find(part); at != std::string_view::npos; at = s.find(part, at + part.size())) ++found;
  return found;
}

std::string upper(std::string_view s) {
  auto out = ascii_only(s, "upper case");
  std::ranges::transform(out, out.begin(), to_upper);
  return out;
}

std::string lower(std::string_view s) {
  auto out = ascii_only(s, "lower case");
  std::ranges::transform(out, out.begin(), to_lower);
  return out;
}

std::string capitalize(std::string_view s) {
  auto out = lower(s);
  if (!out.empty()) out[0] = to_upper(out[0]);
  return out;
}

std::string title(std::string_view s) {
  auto out = lower(s);
  bool inside = false;
  for (auto& c : out) {
    const bool letter = is_lower(c);
    if (letter && !inside) c = to_upper(c);
    inside = letter;
  }
  return out;
}

std::string title_filter(std::string_view s) {
  auto out = lower(s);
  bool begins = true;
  for (auto& c : out) {
    if (begins) c = to_upper(c);
    begins = std::string_view("-({[<").find(c) != std::string_view::npos ||
             is_space(static_cast<char32_t>(static_cast<unsigned char>(c)));
  }
  return out;
}

}  // namespace troupe::model::jinja
