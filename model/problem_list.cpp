#include "model/problem_list.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "common/utf8.hpp"

namespace troupe::model {
namespace {

constexpr std::size_t printable_bytes_max = 160;
constexpr std::size_t rows_shown_max = 200;

}  // namespace

std::string printable(std::string_view text) {
  std::string clean;
  for (auto rest = text.substr(0, printable_bytes_max); !rest.empty();) {
    const auto size = utf8_sequence_bytes(rest);
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
