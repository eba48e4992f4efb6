#include "cli/top_frame.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "cli/placement_page.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

constexpr std::string_view absent = "-";  // pruned, or not added yet

std::string head_line(const json& status, const json& placement) {
  const auto& imbalance = placement.at("imbalance");
  const auto number = [&](const char* key) { return status.contains(key) ? status.at(key).dump() : "-"; };
  return fmt::format("{}  {}  term {}  epoch {}  imbalance {}  moving {}\n",
                     printable(status.at("model").value("name", "-")), status.value("state", "-"), number("term"),
                     number("epoch"), imbalance.is_number() ? fmt::format("{:.2f}", imbalance.get<double>()) : "-",
                     placement.at("moving").dump());
}

struct heat_row {
  std::string layer;
  std::vector<double> times_fair;  // below 0: takes no part
};

std::vector<heat_row> heat_rows(const json& placement) {
  std::vector<heat_row> rows;
  for (const auto& item : placement.at("items")) {
    auto name = layer_name(item.at("layer"));
    if (rows.empty() || rows.back().layer != name) rows.push_back({std::move(name), {}});
    const auto& state = item.at("state");
    const bool takes_part = state != "pruned" && state != "dormant";
    rows.back().times_fair.push_back(takes_part ? item.at("share").get<double>() : -1.0);
  }
  for (auto& row : rows) {
    const auto in_use = static_cast<double>(std::ranges::count_if(row.times_fair, [](double s) { return s >= 0; }));
    for (auto& share : row.times_fair) share *= share > 0 ? in_use : 1;
  }
  return rows;
}

// @pre width > 0
std::string heat_cells(const heat_row& row, std::size_t width, bool utf8) {
  const auto count = row.times_fair.size();
  const auto per_cell = (count + width - 1) / width;
  std::string cells;
  for (std::size_t first = 0; first < count; first += per_cell) {
    const auto begin = row.times_fair.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = row.times_fair.begin() + static_cast<std::ptrdiff_t>(std::min(first + per_cell, count));
    const double busiest = *std::max_element(begin, end);
    cells += busiest < 0 ? std::string{absent} : shade(busiest, utf8);
  }
  return cells;
}

std::string heat_map(const json& placement, const frame_style& style, std::size_t rows_max) {
  const auto rows = heat_rows(placement);
  std::size_t label = 5;
  for (const auto& row : rows) label = std::max(label, row.layer.size());
  auto text = fmt::format(
      "{:>{}}  EXPERTS 0.. ('{}' under 1/2 of the fair share, '{}' under 1, '{}' under 2, '{}' more; "
      "'{}' takes no part)\n",
      "LAYER", label, shade(0.1, style.utf8), shade(0.9, style.utf8), shade(1.5, style.utf8), shade(9, style.utf8),
      absent);
  const auto width = style.width > label + 12 ? style.width - label - 4 : 8;
  const auto shown = std::min(rows.size(), rows_max);
  for (std::size_t r = 0; r < shown; ++r) {
    text += fmt::format("{:>{}}  |{}|\n", rows[r].layer, label, heat_cells(rows[r], width, style.utf8));
  }
  if (shown < rows.size()) text += fmt::format("{:>{}}  {} more layers\n", "", label, rows.size() - shown);
  return text;
}

std::string operations_table(const json& operations) {
  json running = json::array();
  for (const auto& item : operations.at("items")) {
    if (item.value("state", "") == "running") running.push_back(item);
  }
  if (running.empty()) return "no operation under way\n";
  return render({{"items", std::move(running)}}, output_format::table,
                {.items = "items",
                 .columns = {{"OPERATION", "id"},
                             {"KIND", "kind"},
                             {"OBJECT", "object"},
                             {"STEP", "step"},
                             {"PROGRESS", "progress", cell::share},
                             {"WAITS FOR", "waits_for"},
                             {"WHO", "who"}},
                 .name = ""});
}

std::size_t lines_of(std::string_view text) { return static_cast<std::size_t>(std::ranges::count(text, '\n')); }

}  // namespace

std::string shade(double times_fair, bool utf8) {
  constexpr std::array<double, 4> below{0.5, 1, 2, 1e300};
  constexpr std::array<std::string_view, 4> blocks{"\u2591", "\u2592", "\u2593", "\u2588"};
  constexpr std::array<std::string_view, 4> letters{".", ":", "+", "#"};
  if (!(times_fair > 0)) return " ";
  std::size_t level = 0;
  while (level + 1 < below.size() && times_fair >= below[level]) ++level;
  return std::string{utf8 ? blocks[level] : letters[level]};
}

std::string top_frame(const json& status, const json& placement, const json& operations, const frame_style& style) {
  const auto above = head_line(status, placement) + '\n' + nodes_table(placement) + '\n';
  const auto below = '\n' + operations_table(operations);
  std::size_t rows_max = placement.at("items").size();
  if (style.height > 0) {
    const auto taken = lines_of(above) + lines_of(below) + 2;  // the map's head, and the count of what is left out
    rows_max = style.height > taken ? style.height - taken : 1;
  }
  return above + heat_map(placement, style, rows_max) + below;
}

}  // namespace troupe::cli
