#include "model/problem_list.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace troupe::model {
namespace {

constexpr std::size_t printable_bytes_max = 160;
constexpr std::size_t rows_shown_max = 200;

// Of the UTF-8 character that `text` begins with; 0: it begins with none.
std::size_t character_bytes(std::string_view text) {
  const auto at = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const auto first = at(0);
  if (first < 0x80) return 1;
  const std::size_t size = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  for (std::size_t i = 1; i < size; ++i) {
    if ((at(i) & 0xc0U) != 0x80) return 0;
  }
  // Longer than needed, halves of surrogate pairs, beyond the last character.
  const bool is_none = (first == 0xe0 && at(1) < 0xa0) || (first == 0xed && at(1) > 0x9f) ||
                       (first == 0xf0 && at(1) < 0x90) || (first == 0xf4 && at(1) > 0x8f);
  return is_none ? 0 : size;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string clean;
  for (auto rest = text.substr(0, printable_bytes_max); !rest.empty();) {
    const auto size = character_bytes(rest);
    const auto byte = static_cast<unsigned char>(rest.front());
    const bool is_shown = size > 0 && byte >= 0x20 && byte != 0x7f;
    clean += is_shown ? rest.substr(0, size) : "?";
    rest.remove_prefix(std::max<std::size_t>(size, 1));
  }
  if (text.size() > printable_bytes_max) clean += "...";
  return clean;
}

void problem_list::add(std::string where, std::string expected, std::string found) {
  rows_.push_back({std::move(where), std::move(expected), std::move(found)});
}

error problem_list::to_error(std::string_view subject, std::string_view advice) const {
  auto shown = std::min(rows_.size(), rows_shown_max);
  std::size_t where_width = 5;
  std::size_t expected_width = 8;
  for (std::size_t i = 0; i < shown; ++i) {
    where_width = std::max(where_width, rows_[i].where.size());
    expected_width = std::max(expected_width, rows_[i].expected.size());
  }
  auto text = fmt::format("{}: {} problem{}; {}", subject, rows_.size(), rows_.size() == 1 ? "" : "s", advice);
  text += fmt::format("\n  {:{}}  {:{}}  found", "where", where_width, "expected", expected_width);
  for (std::size_t i = 0; i < shown; ++i) {
    text += fmt::format("\n  {:{}}  {:{}}  {}", rows_[i].where, where_width, rows_[i].expected, expected_width,
                        rows_[i].found);
  }
  if (shown < rows_.size()) text += fmt::format("\n  and {} more", rows_.size() - shown);
  return {errc::invalid_request, std::move(text)};
}

}  // namespace troupe::model
