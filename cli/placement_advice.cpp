#include "cli/placement_advice.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace troupe::cli {
namespace {

using coordinator::load_node;
using coordinator::no_expert;

struct serving_node {
  std::string name;
  std::uint32_t zone{};
  std::uint32_t slots_free{};
};

// Names of zones, numbered as they come.
std::vector<serving_node> serving_nodes(const json& nodes) {
  std::vector<serving_node> serving;
  std::map<std::string, std::uint32_t> zones;
  const auto text = [](const json& node, const char* key) {
    return node.contains(key) && node.at(key).is_string() ? node.at(key).get<std::string>() : std::string{};
  };
  for (const auto& node : nodes.at("items")) {
    if (node.value("role", "") != "expert" || node.value("state", "") != "serving") continue;
    const auto zone = text(node, "zone").empty() ? text(node, "machine") : text(node, "zone");
    const auto number = static_cast<std::uint32_t>(zones.size());
    const auto total = node.at("slots_total").get<std::uint32_t>();
    const auto used = std::min(node.at("slots_used").get<std::uint32_t>(), total);
    serving.push_back(
        {node.at("name").get<std::string>(), zones.try_emplace(zone, number).first->second, total - used});
  }
  return serving;
}

struct layer_view {
  json layer;
  std::vector<const json*> experts;  // in use, by number
  std::uint32_t known{};             // experts of the layer, with those that take no part
};

std::vector<layer_view> layers_of(const json& experts) {
  std::vector<layer_view> layers;
  for (const auto& item : experts.at("items")) {
    if (layers.empty() || layers.back().layer != item.at("layer")) layers.push_back({item.at("layer"), {}, 0});
    ++layers.back().known;
    const auto& state = item.at("state");
    if (state == "active" || state == "warming") layers.back().experts.push_back(&item);
  }
  return layers;
}

// What the planner sees of one layer. Nodes without a slot for it are left out.
struct layer_input {
  std::vector<load_node> nodes;
  std::vector<std::string> names;
  std::vector<std::uint32_t> present;  // per slot: position in layer_view::experts
};

bool is_on(const json& expert, const std::string& name) {
  const auto& replicas = expert.at("replicas");
  return std::any_of(replicas.begin(), replicas.end(), [&](const json& replica) { return replica.at("node") == name; });
}

layer_input input_of(const layer_view& layer, const std::vector<serving_node>& nodes, std::size_t number,
                     std::size_t layers) {
  layer_input input;
  for (const auto& node : nodes) {
    const auto before = input.present.size();
    for (std::uint32_t e = 0; e < layer.experts.size(); ++e) {
      if (is_on(*layer.experts[e], node.name)) input.present.push_back(e);
    }
    const auto extra = node.slots_free / layers + (number < node.slots_free % layers ? 1 : 0);
    input.present.insert(input.present.end(), extra, no_expert);
    const auto slots = static_cast<std::uint32_t>(input.present.size() - before);
    if (slots == 0) continue;
    input.nodes.push_back({slots, node.zone, 1});
    input.names.push_back(node.name);
  }
  return input;
}

// The layer's loads, those of experts that take no part left out.
result<std::vector<double>> loads_of(const layer_view& layer, const loads_by_layer& loads) {
  std::vector<double> values(layer.experts.size(), 0.0);
  const auto found = loads.find(layer_name(layer.layer));
  if (found == loads.end()) return values;
  if (found->second.size() > layer.known) {
    return fail(errc::invalid_request, fmt::format("there is a load of expert {}/{}; the layer has experts 0-{}",
                                                   found->first, found->second.size() - 1, layer.known - 1));
  }
  for (std::size_t e = 0; e < values.size(); ++e) {
    const auto index = layer.experts[e]->at("expert").get<std::size_t>();
    if (index < found->second.size()) values[e] = found->second[index];
  }
  return values;
}

json move_item(const layer_view& layer, const layer_input& input, const coordinator::load_move& move) {
  const auto number = [&](std::uint32_t e) { return layer.experts[e]->at("expert"); };
  return {{"layer", layer.layer},
          {"expert", number(move.expert)},
          {"to", input.names[move.to]},
          {"from", move.from ? json(input.names[*move.from]) : json(nullptr)},
          {"instead_of", move.instead_of ? number(*move.instead_of) : json(nullptr)},
          {"reason", to_string(move.reason)},
          {"bytes", layer.experts[move.expert]->at("bytes")}};
}

struct sums {
  double before{}, after{};
  std::size_t layers{};
  [[nodiscard]] json mean(double sum) const {
    return layers == 0 ? json(nullptr) : json(sum / static_cast<double>(layers));
  }
};

}  // namespace

loads_by_layer window_loads(const json& experts) {
  loads_by_layer loads;
  for (const auto& item : experts.at("items")) {
    auto& layer = loads[layer_name(item.at("layer"))];
    const auto index = item.at("expert").get<std::size_t>();
    if (layer.size() <= index) layer.resize(index + 1);
    layer[index] = item.at("share").is_number() ? item.at("share").get<double>() : 0.0;
  }
  return loads;
}

result<json> plan_document(const json& experts, const json& nodes, const loads_by_layer& loads,
                           coordinator::load_planner_settings settings) {
  const auto serving = serving_nodes(nodes);
  const auto layers = layers_of(experts);
  json items = json::array();
  json layer_rows = json::array();
  std::uint64_t bytes = 0;
  sums all;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const auto& layer = layers[l];
    const auto values = loads_of(layer, loads);
    if (!values) return fail(values.error());
    const auto input = input_of(layer, serving, l, layers.size());
    if (input.present.size() < layer.experts.size()) {
      return fail(errc::conflict,
                  fmt::format("layer {} has {} experts and {} slots on nodes that serve; add nodes first",
                              layer_name(layer.layer), layer.experts.size(), input.present.size()));
    }
    json row{{"layer", layer.layer}, {"imbalance_before", nullptr}, {"imbalance_after", nullptr}, {"moves", 0}};
    if (std::accumulate(values->begin(), values->end(), 0.0) > 0) {
      const auto plan = coordinator::load_planner{input.nodes, settings}.plan(*values, input.present);
      for (const auto& move : plan.moves) {
        items.push_back(move_item(layer, input, move));
        bytes += items.back().at("bytes").get<std::uint64_t>();
      }
      row["imbalance_before"] = plan.imbalance_before + 1;
      row["imbalance_after"] = plan.imbalance_after + 1;
      row["moves"] = plan.moves.size();
      all = {all.before + plan.imbalance_before + 1, all.after + plan.imbalance_after + 1, all.layers + 1};
    }
    layer_rows.push_back(std::move(row));
  }
  return json{{"imbalance_before", all.mean(all.before)},
              {"imbalance_after", all.mean(all.after)},
              {"moves", items.size()},
              {"bytes", bytes},
              {"layers", std::move(layer_rows)},
              {"items", std::move(items)}};
}

}  // namespace troupe::cli
