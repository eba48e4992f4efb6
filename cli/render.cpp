#include "cli/render.hpp"

#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

const json* find_path(const json& item, std::string_view path) {
  const json* here = &item;
  while (!path.empty()) {
    const auto slash = path.find('/');
    const std::string key{path.substr(0, slash)};
    if (!here->is_object() || !here->contains(key)) return nullptr;
    here = &here->at(key);
    path = slash == std::string_view::npos ? std::string_view{} : path.substr(slash + 1);
  }
  return here;
}

std::string text_of(const json& value) {
  if (value.is_null()) return "-";
  if (value.is_string()) return printable(value.get_ref<const std::string&>());
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_array()) {
    std::string joined;
    for (const auto& element : value) joined.append(joined.empty() ? "" : ",").append(text_of(element));
    return joined.empty() ? "-" : joined;
  }
  // A replica in a list of replicas is best known by its node.
  if (value.is_object()) return value.contains("node") ? text_of(value.at("node")) : value.dump();
  return value.dump();
}

std::string cell_text(const json& item, const column& shown) {
  const bool counted = shown.path.starts_with('#');
  const json* value = find_path(item, std::string_view{shown.path}.substr(counted ? 1 : 0));
  if (value == nullptr || value->is_null()) return "-";
  if (counted) return std::to_string(value->size());
  if (value->is_number()) {
    if (shown.kind == cell::bytes) return human_bytes(value->get<double>());
    if (shown.kind == cell::share) return fmt::format("{:.1f} %", 100 * value->get<double>());
  }
  std::string text = text_of(*value);
  return text.empty() ? "-" : text;
}

std::vector<column> columns_of(const view& shown, bool wide) {
  std::vector<column> columns;
  for (const auto& c : shown.columns) {
    if (wide || !c.only_wide) columns.push_back(c);
  }
  return columns;
}

// Characters, not bytes: names of models may hold any UTF-8.
std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string space(width - std::min(width, display_width(text)), ' ');
  return right ? space + text : text + space;
}

std::string render_table(const std::vector<const json*>& rows, const std::vector<column>& columns) {
  std::vector<std::vector<std::string>> cells(1);
  for (const auto& c : columns) cells[0].push_back(c.title);
  for (const json* row : rows) {
    auto& line = cells.emplace_back();
    for (const auto& c : columns) line.push_back(cell_text(*row, c));
  }
  std::vector<std::size_t> widths(columns.size());
  for (const auto& line : cells) {
    for (std::size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], display_width(line[i]));
  }
  std::string out;
  for (const auto& line : cells) {
    std::string printed;
    for (std::size_t i = 0; i < line.size(); ++i) {
      printed += padded(line[i], widths[i], columns[i].kind != cell::text) + (i + 1 < line.size() ? "  " : "");
    }
    printed.erase(printed.find_last_not_of(' ') + 1);
    out += printed + '\n';
  }
  return out;
}

std::string render_vertical(const json& item, const std::vector<column>& columns) {
  std::size_t width = 0;
  for (const auto& c : columns) width = std::max(width, display_width(c.title));
  std::string out;
  for (const auto& c : columns) out += padded(c.title, width, false) + "  " + cell_text(item, c) + '\n';
  return out;
}

std::string render_name(const json& item, std::string_view pattern) {
  std::string out;
  while (!pattern.empty()) {
    const auto open = pattern.find('{');
    out += pattern.substr(0, open);
    if (open == std::string_view::npos) break;
    const auto close = pattern.find('}', open);
    const json* value = find_path(item, pattern.substr(open + 1, close - open - 1));
    out += value == nullptr ? "-" : text_of(*value);
    pattern.remove_prefix(close + 1);
  }
  return out + '\n';
}

void emit_yaml(YAML::Emitter& out, const json& value) {
  if (value.is_object()) {
    out << YAML::BeginMap;
    for (const auto& [key, element] : value.items()) {
      out << YAML::Key << key << YAML::Value;
      emit_yaml(out, element);
    }
    out << YAML::EndMap;
  } else if (value.is_array()) {
    out << YAML::BeginSeq;
    for (const auto& element : value) emit_yaml(out, element);
    out << YAML::EndSeq;
  } else if (value.is_string()) {
    out << YAML::DoubleQuoted << value.get<std::string>();
  } else if (value.is_null()) {
    out << YAML::Null;
  } else {
    out << value.dump();
  }
}

std::vector<const json*> rows_of(const json& document, const view& shown) {
  if (shown.items.empty()) return {&document};
  std::vector<const json*> rows;
  if (const json* items = find_path(document, shown.items); items != nullptr && items->is_array()) {
    for (const auto& item : *items) rows.push_back(&item);
  }
  return rows;
}

}  // namespace

std::optional<output_format> parse_format(std::string_view text) {
  constexpr std::array<std::pair<std::string_view, output_format>, 5> formats{{{"table", output_format::table},
                                                                               {"json", output_format::json},
                                                                               {"yaml", output_format::yaml},
                                                                               {"wide", output_format::wide},
                                                                               {"name", output_format::name}}};
  for (const auto& [name, format] : formats) {
    if (name == text) return format;
  }
  return std::nullopt;
}

std::string layer_name(const json& layer) { return layer.is_string() ? layer.get<std::string>() : layer.dump(); }

std::string human_bytes(double bytes) {
  constexpr std::array<std::string_view, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, units[unit]);
}

std::string render(const json& document, output_format format, const view& shown) {
  if (format == output_format::json) {
    return document.dump(2, ' ', false, json::error_handler_t::replace) + '\n';
  }
  if (format == output_format::yaml) {
    YAML::Emitter out;
    emit_yaml(out, document);
    return std::string{out.c_str()} + '\n';
  }
  const auto rows = rows_of(document, shown);
  if (format == output_format::name) {
    std::string out;
    for (const json* row : rows) out += render_name(*row, shown.name);
    return out;
  }
  const auto columns = columns_of(shown, format == output_format::wide);
  if (shown.vertical && rows.size() == 1) return render_vertical(*rows.front(), columns);
  return render_table(rows, columns);
}

}  // namespace troupe::cli
