#include "cli/placement_page.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

namespace troupe::cli {
namespace {

double number_of(const json& item, const char* key) {
  return item.contains(key) && item.at(key).is_number() ? item.at(key).get<double>() : 0.0;
}

json value_of(const json& item, const char* key) { return item.contains(key) ? item.at(key) : json(nullptr); }

// Names of the nodes with a replica, in the order of the document.
std::vector<std::string> places_of(const json& expert) {
  std::vector<std::string> names;
  for (const auto& replica : expert.at("replicas")) names.push_back(replica.at("node").get<std::string>());
  return names;
}

std::vector<std::string> without(const std::vector<std::string>& names, const std::vector<std::string>& others) {
  std::vector<std::string> rest;
  std::ranges::copy_if(names, std::back_inserter(rest),
                       [&](const auto& name) { return std::ranges::find(others, name) == others.end(); });
  return rest;
}

json placed_expert(const json& expert) {
  const auto places = places_of(expert);
  const auto wanted =
      value_of(expert, "wanted").is_array() ? expert.at("wanted").get<std::vector<std::string>>() : places;
  return {{"layer", expert.at("layer")},
          {"expert", expert.at("expert")},
          {"state", value_of(expert, "state")},
          {"share", number_of(expert, "share")},
          {"pinned", value_of(expert, "pinned")},
          {"replicas", expert.at("replicas")},
          {"wanted", wanted},
          {"coming", without(wanted, places)},
          {"going", without(places, wanted)},
          {"operation", value_of(expert, "operation")}};
}

using loads_by_node = std::map<std::string, double>;

void add_loads(const json& expert, loads_by_node& loads) {
  const auto places = places_of(expert);
  for (const auto& name : places) loads[name] += number_of(expert, "share") / static_cast<double>(places.size());
}

// Largest over mean; null without load. `serving`: nodes that count also when they hold nothing.
json imbalance_of(loads_by_node loads, const std::vector<std::string>& serving) {
  for (const auto& name : serving) loads.try_emplace(name, 0.0);
  double sum = 0;
  double most = 0;
  for (const auto& [name, load] : loads) {
    sum += load;
    most = std::max(most, load);
  }
  if (sum <= 0) return nullptr;
  return most * static_cast<double>(loads.size()) / sum;
}

json node_rows(const json& nodes, const json& items, const loads_by_node& loads) {
  std::map<std::string, std::uint64_t> replicas;
  for (const auto& item : items) {
    for (const auto& name : places_of(item)) ++replicas[name];
  }
  json rows = json::array();
  for (const auto& node : nodes.at("items")) {
    if (node.value("role", "") != "expert") continue;
    const auto name = node.at("name").get<std::string>();
    const auto load = loads.find(name);
    rows.push_back({{"name", name},
                    {"state", value_of(node, "state")},
                    {"slots_total", value_of(node, "slots_total")},
                    {"slots_used", value_of(node, "slots_used")},
                    {"replicas", replicas[name]},
                    {"load", load == loads.end() ? 0.0 : load->second},
                    {"rows_per_second", value_of(node, "rows_per_second")}});
  }
  return rows;
}

std::vector<std::string> serving_nodes(const json& rows) {
  std::vector<std::string> names;
  for (const auto& row : rows) {
    if (row.at("state") == "serving") names.push_back(row.at("name").get<std::string>());
  }
  return names;
}

// "1.08", "-": of a ratio or null.
std::string ratio_text(const json& value) {
  return value.is_number() ? fmt::format("{:.2f}", value.get<double>()) : "-";
}

// What one node holds of one layer, with what comes and what goes.
struct holding {
  std::vector<std::uint64_t> stays, comes, goes;

  [[nodiscard]] std::string text() const {
    std::string all = as_ranges(stays);
    if (!comes.empty()) all += (all.empty() ? "+" : " +") + as_ranges(comes);
    if (!goes.empty()) all += (all.empty() ? "-" : " -") + as_ranges(goes);
    return all;
  }
};

bool contains(const json& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string layers_table(const json& placement) {
  view shown{.items = "items",
             .columns = {{"LAYER", "layer"}, {"IMBALANCE", "imbalance", cell::count}, {"NOWHERE", "nowhere"}},
             .name = ""};
  std::vector<std::string> names;
  for (const auto& node : placement.at("nodes")) {
    names.push_back(node.at("name").get<std::string>());
    // By position: a path is split at slashes, which a name may have.
    shown.columns.insert(shown.columns.end() - 1, {names.back(), fmt::format("held/{}", names.size() - 1)});
  }
  json rows = json::array();
  for (const auto& layer : placement.at("layers")) {
    std::vector<holding> held(names.size());
    std::vector<std::uint64_t> nowhere;
    for (const auto& item : placement.at("items")) {
      if (item.at("layer") != layer.at("layer")) continue;
      const auto expert = item.at("expert").get<std::uint64_t>();
      if (item.at("replicas").empty()) nowhere.push_back(expert);
      const auto places = places_of(item);
      for (std::size_t n = 0; n < names.size(); ++n) {
        if (contains(item.at("coming"), names[n]))
          held[n].comes.push_back(expert);
        else if (contains(item.at("going"), names[n]))
          held[n].goes.push_back(expert);
        else if (std::ranges::find(places, names[n]) != places.end())
          held[n].stays.push_back(expert);
      }
    }
    json texts = json::object();
    for (std::size_t n = 0; n < names.size(); ++n) texts[std::to_string(n)] = held[n].text();
    rows.push_back({{"layer", layer.at("layer")},
                    {"imbalance", ratio_text(layer.at("imbalance"))},
                    {"held", texts},
                    {"nowhere", as_ranges(nowhere)}});
  }
  return render({{"items", rows}}, output_format::table, shown);
}

std::string experts_table(const json& placement) {
  return render(placement, output_format::table,
                {.items = "items",
                 .columns = {{"LAYER", "layer"},
                             {"EXPERT", "expert", cell::count},
                             {"STATE", "state"},
                             {"SHARE", "share", cell::share},
                             {"REPLICAS", "replicas"},
                             {"WANTED", "wanted"},
                             {"PINNED", "pinned"},
                             {"OPERATION", "operation"}},
                 .name = ""});
}

}  // namespace

std::string as_ranges(const std::vector<std::uint64_t>& numbers) {
  std::string text;
  for (std::size_t first = 0; first < numbers.size();) {
    auto last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += first == last ? fmt::format("{}", numbers[first]) : fmt::format("{}-{}", numbers[first], numbers[last]);
    first = last + 1;
  }
  return text;
}

json placement_document(const json& experts, const json& nodes) {
  json items = json::array();
  loads_by_node total;
  std::vector<std::pair<json, loads_by_node>> layers;
  std::uint64_t moving = 0;
  for (const auto& expert : experts.at("items")) {
    items.push_back(placed_expert(expert));
    const auto& item = items.back();
    moving += item.at("coming").size() + item.at("going").size();
    if (layers.empty() || layers.back().first != item.at("layer"))
      layers.emplace_back(item.at("layer"), loads_by_node{});
    add_loads(item, layers.back().second);
    add_loads(item, total);
  }
  json rows = node_rows(nodes, items, total);
  const auto serving = serving_nodes(rows);
  json layer_rows = json::array();
  for (auto& [layer, loads] : layers) {
    layer_rows.push_back({{"layer", layer}, {"imbalance", imbalance_of(loads, serving)}, {"load", json::object()}});
    for (const auto& [name, load] : loads) layer_rows.back()["load"][name] = load;
  }
  return {{"term", value_of(experts, "term")},
          {"epoch", value_of(experts, "epoch")},
          {"moving", moving},
          {"imbalance", imbalance_of(total, serving)},
          {"nodes", std::move(rows)},
          {"layers", std::move(layer_rows)},
          {"items", std::move(items)}};
}

std::string placement_page(const json& placement, bool wide) {
  json head = {{"term", placement.at("term")},
               {"epoch", placement.at("epoch")},
               {"imbalance", ratio_text(placement.at("imbalance"))},
               {"moving", placement.at("moving")}};
  auto page = render(
      head, output_format::table,
      {.items = "",
       .columns = {{"TERM", "term"}, {"EPOCH", "epoch"}, {"IMBALANCE", "imbalance"}, {"REPLICAS MOVING", "moving"}},
       .name = "",
       .vertical = true});
  page += '\n' + nodes_table(placement) + '\n' + layers_table(placement);
  if (wide) page += '\n' + experts_table(placement);
  return page;
}

std::string nodes_table(const json& placement) {
  json rows = placement.at("nodes");
  double sum = 0;
  for (const auto& row : rows) sum += row.at("load").get<double>();
  for (auto& row : rows) {
    row["part"] = sum > 0 ? json(row.at("load").get<double>() / sum) : json(nullptr);
    const auto& rate = row.at("rows_per_second");
    row["rate"] = rate.is_number() ? json(fmt::format("{:.0f}", rate.get<double>())) : json(nullptr);
  }
  return render({{"items", std::move(rows)}}, output_format::table,
                {.items = "items",
                 .columns = {{"NODE", "name"},
                             {"STATE", "state"},
                             {"SLOTS", "slots_total", cell::count},
                             {"USED", "slots_used", cell::count},
                             {"REPLICAS", "replicas", cell::count},
                             {"LOAD", "part", cell::share},
                             {"ROWS/S", "rate", cell::count}},
                 .name = ""});
}

}  // namespace troupe::cli
