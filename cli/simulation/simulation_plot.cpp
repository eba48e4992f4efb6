#include "cli/simulation/simulation_plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <vector>

namespace troupe::cli {
namespace {

constexpr std::array<const char*, 6> colors{"#c2410c", "#475569", "#0369a1", "#15803d", "#7e22ce", "#a16207"};
// Pixels: a panel with its margins, and the field in it that lines are drawn in.
constexpr double panel_width = 460, panel_height = 220, left = 64, right = 12, top = 30, bottom = 34;
constexpr double field_width = panel_width - left - right, field_height = panel_height - top - bottom;
constexpr double legend_height = 34;
constexpr std::size_t panels_per_row = 2, points_max = 500;

struct figure {
  const char* title;
  bool sums_up{};  // over the steps so far
  std::function<double(const simulated_step&)> of;
};

std::vector<figure> figures() {
  constexpr double gib = 1024.0 * 1024 * 1024;
  return {{"imbalance, mean over layers, %", false, [](const auto& s) { return 100 * s.imbalance_mean; }},
          {"imbalance, worst layer, %", false, [](const auto& s) { return 100 * s.imbalance_max; }},
          {"moves per layer so far", true, [](const auto& s) { return s.moves_per_layer; }},
          {"GiB moved so far", true, [gib](const auto& s) { return static_cast<double>(s.moved_bytes) / gib; }},
          {"GiB resident", false, [gib](const auto& s) { return static_cast<double>(s.resident_bytes) / gib; }},
          {"cold experts", false, [](const auto& s) { return static_cast<double>(s.cold_experts); }},
          {"masked mass, % of the load", false, [](const auto& s) { return 100 * s.masked_share; }},
          {"unserved, % of the load", false, [](const auto& s) { return 100 * s.unserved_share; }},
          {"nodes away", false, [](const auto& s) { return static_cast<double>(s.nodes_away); }}};
}

struct line {
  std::vector<double> at;  // 0 to 1 of the time
  std::vector<double> value;
};

// Means over neighbouring steps where there are more than points_max.
line line_of(const simulated_run& run, const figure& what) {
  const auto steps = run.steps.size();
  const auto points = std::min(steps, points_max);
  line drawn;
  double sum_so_far = 0;
  for (std::size_t p = 0; p < points; ++p) {
    const auto begin = p * steps / points, end = (p + 1) * steps / points;
    double sum = 0;
    for (auto i = begin; i < end; ++i) {
      sum_so_far += what.of(run.steps[i]);
      sum += what.sums_up ? sum_so_far : what.of(run.steps[i]);
    }
    drawn.at.push_back(points > 1 ? static_cast<double>(p) / static_cast<double>(points - 1) : 0);
    drawn.value.push_back(sum / static_cast<double>(end - begin));
  }
  return drawn;
}

void add_text(std::string& svg, double x, double y, const char* anchor, const std::string& text) {
  svg += fmt::format(R"(<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>)"
                     "\n",
                     x, y, anchor, text);
}

void add_axes(std::string& svg, double x, double y, double most, double end, const char* unit) {
  for (int i = 0; i <= 4; ++i) {
    const double height = y + top + field_height * (1 - i / 4.0);
    svg += fmt::format(R"(<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="#e2e8f0"/>)"
                       "\n",
                       x + left, height, x + left + field_width, height);
    add_text(svg, x + left - 6, height + 4, "end", fmt::format("{:.3g}", most * i / 4));
    add_text(svg, x + left + field_width * i / 4, y + top + field_height + 16, "middle",
             fmt::format("{:.3g}", end * i / 4));
  }
  add_text(svg, x + left + field_width, y + top + field_height + 30, "end", unit);
}

void add_line(std::string& svg, double x, double y, double most, const line& drawn, const char* color) {
  std::string points;
  for (std::size_t i = 0; i < drawn.at.size(); ++i) {
    points += fmt::format("{:.1f},{:.1f} ", x + left + field_width * drawn.at[i],
                          y + top + field_height * (1 - drawn.value[i] / most));
  }
  svg += fmt::format(R"(<polyline fill="none" stroke="{}" stroke-width="1.5" points="{}"/>)"
                     "\n",
                     color, points);
}

}  // namespace

std::string plot_svg(std::span<const simulated_run> runs, double minutes_per_step) {
  const auto all = figures();
  const auto rows = (all.size() + panels_per_row - 1) / panels_per_row;
  const double width = panel_width * panels_per_row, height = legend_height + panel_height * static_cast<double>(rows);
  std::string svg = fmt::format(
      R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0:.0f}" height="{1:.0f}" viewBox="0 0 {0:.0f} {1:.0f}" )"
      "font-family=\"sans-serif\" font-size=\"11\" fill=\"#1e293b\">\n"
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      width, height);
  double legend = left;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    svg += fmt::format(R"(<rect x="{:.0f}" y="14" width="14" height="4" fill="{}"/>)"
                       "\n",
                       legend, colors[r % colors.size()]);
    add_text(svg, legend + 20, 20, "start", runs[r].name);
    legend += 60 + 7 * static_cast<double>(runs[r].name.size());
  }
  const auto steps = static_cast<double>(runs.front().steps.size() - 1);
  const double end = minutes_per_step > 0 ? steps * minutes_per_step / 60 : steps;
  for (std::size_t f = 0; f < all.size(); ++f) {
    const double x = panel_width * static_cast<double>(f % panels_per_row);
    const double y = legend_height + panel_height * static_cast<double>(f / panels_per_row);
    std::vector<line> lines;
    double most = 1e-9;
    for (const auto& run : runs) {
      lines.push_back(line_of(run, all[f]));
      most = std::max(most, *std::ranges::max_element(lines.back().value));
    }
    most = most > 1e-9 ? most * 1.05 : 1;
    add_text(svg, x + left, y + top - 10, "start", all[f].title);
    add_axes(svg, x, y, most, end, minutes_per_step > 0 ? "hours" : "steps");
    for (std::size_t r = 0; r < runs.size(); ++r) add_line(svg, x, y, most, lines[r], colors[r % colors.size()]);
  }
  return svg + "</svg>\n";
}

}  // namespace troupe::cli
