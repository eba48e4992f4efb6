#include "cli/load_trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <string_view>
#include <tuple>

#include "cli/terminal.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

constexpr std::array<std::string_view, 4> names{"step", "layer", "expert", "load"};
constexpr double load_max = 1e100;  // sums of these are still finite
using columns = std::array<std::size_t, names.size()>;

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const auto first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

void split(std::string_view line, std::vector<std::string_view>& fields) {
  fields.clear();
  for (;;) {
    const auto comma = line.find(',');
    auto field = trimmed(line.substr(0, comma));
    // Numbers and these names hold no comma, so quotes, as R writes them around the header, say nothing.
    if (field.size() >= 2 && field.front() == '"' && field.back() == '"') field = field.substr(1, field.size() - 2);
    fields.push_back(field);
    if (comma == std::string_view::npos) return;
    line.remove_prefix(comma + 1);
  }
}

class parser {
 public:
  explicit parser(const std::string& name) : name_{name} {}

  result<load_trace> run(std::istream& csv) {
    std::string line;
    while (std::getline(csv, line)) {
      ++line_;
      if (line_ == 1 && line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
      if (trimmed(line).empty()) continue;
      split(line, fields_);
      if (auto good = columns_ ? add_row() : read_header(); !good) return fail(good.error());
    }
    if (csv.bad()) return fail(errc::unavailable, fmt::format("{} cannot be read to its end; try again", name_));
    if (!columns_) return problem("is empty", "the first line must be: step,layer,expert,load");
    if (rows_.empty()) return problem("no row follows the header", "add rows like: 0,0,17,2048");
    return finish();
  }

 private:
  [[nodiscard]] tl::unexpected<error> problem(const std::string& what, const std::string& remedy) const {
    return fail(errc::invalid_request,
                fmt::format("{} line {}: {}; {}", name_, std::max<std::uint64_t>(line_, 1), what, remedy));
  }

  result<void> read_header() {
    columns found{};
    for (std::size_t i = 0; i < names.size(); ++i) {
      const auto at = std::ranges::find(fields_, names[i]);
      if (at == fields_.end()) {
        return problem(fmt::format("column '{}' is missing", names[i]),
                       "the first line must be: step,layer,expert,load");
      }
      if (std::find(at + 1, fields_.end(), names[i]) != fields_.end()) {
        return problem(fmt::format("column '{}' is there twice", names[i]), "remove one");
      }
      found[i] = static_cast<std::size_t>(at - fields_.begin());
    }
    columns_ = found;
    columns_needed_ = *std::ranges::max_element(found) + 1;
    return {};
  }

  result<void> add_row() {
    if (fields_.size() < columns_needed_) {
      return problem(fmt::format("{} columns, where the header has at least {}", fields_.size(), columns_needed_),
                     "write: step,layer,expert,load");
    }
    if (rows_.size() == limits::load_trace_rows_max) {
      return problem(fmt::format("more than {} rows", limits::load_trace_rows_max), "split the file");
    }
    load_row row;
    row.line = line_;
    const std::array<std::pair<std::uint32_t*, std::size_t>, 3> numbers{{{&row.step, std::size_t{1} << 32},
                                                                         {&row.layer, limits::layers_max},
                                                                         {&row.expert, limits::experts_per_layer_max}}};
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto text = fields_[(*columns_)[i]];
      const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), *numbers[i].first);
      if (text.empty() || code != std::errc{} || end != text.data() + text.size() ||
          *numbers[i].first >= numbers[i].second) {
        return problem(fmt::format("{} is '{}'", names[i], printable(text)),
                       fmt::format("give a whole number from 0 to {}", numbers[i].second - 1));
      }
    }
    const auto text = fields_[(*columns_)[3]];
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), row.load);
    const bool whole = !text.empty() && code == std::errc{} && end == text.data() + text.size();
    if (!whole || !std::isfinite(row.load) || row.load < 0 || row.load > load_max) {
      return problem(fmt::format("load is '{}'", printable(text)), "give a number from 0 to 1e100");
    }
    rows_.push_back(row);
    return {};
  }

  result<load_trace> finish() {
    auto place = [](const load_row& row) { return std::tuple(row.step, row.layer, row.expert); };
    std::ranges::stable_sort(rows_, {}, place);
    const auto twice = std::ranges::adjacent_find(rows_, {}, place);
    if (twice != rows_.end()) {
      line_ = std::next(twice)->line;
      return problem(fmt::format("step {} has expert {}/{} on line {} already", twice->step, twice->layer,
                                 twice->expert, twice->line),
                     "keep one of them");
    }
    load_trace trace;
    std::array<std::uint32_t, limits::layers_max> experts{};
    for (const auto& row : rows_) {
      if (trace.steps.empty() || trace.steps.back() != row.step) trace.steps.push_back(row.step);
      experts[row.layer] = std::max(experts[row.layer], row.expert + 1);
    }
    for (std::uint32_t layer = 0; layer < experts.size(); ++layer) {
      if (experts[layer] == 0) continue;
      trace.layers.push_back(layer);
      trace.experts.push_back(experts[layer]);
    }
    trace.rows = std::move(rows_);
    return trace;
  }

  const std::string& name_;
  std::uint64_t line_{};
  std::optional<columns> columns_;  // where in a line
  std::size_t columns_needed_{};
  std::vector<std::string_view> fields_;
  std::vector<load_row> rows_;
};

}  // namespace

result<load_trace> parse_load_trace(std::istream& csv, const std::string& name) { return parser{name}.run(csv); }

result<load_trace> read_load_trace(const std::filesystem::path& file) {
  std::ifstream csv{file};
  if (!csv || std::filesystem::is_directory(file)) {
    return fail(errc::not_found, fmt::format("{} cannot be opened; give a CSV file with step,layer,expert,load",
                                             printable(file.string())));
  }
  return parse_load_trace(csv, printable(file.filename().string()));
}

load_source source_of(const load_trace& trace) {
  return {trace.layers, trace.experts, static_cast<std::uint32_t>(trace.steps.size()),
          [&trace](const step_visitor& use) { trace.each_step(use); }};
}

}  // namespace troupe::cli
