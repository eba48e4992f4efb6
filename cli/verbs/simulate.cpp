// troupe simulate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/application.hpp"
#include "cli/load_simulation.hpp"
#include "cli/load_trace.hpp"
#include "cli/terminal.hpp"
#include "common/limits.hpp"
#include "coordinator/core/layer_balance.hpp"

namespace troupe::cli {
namespace {

// Of the published balancer's description.
constexpr std::uint32_t eplb_machines = 4;

struct simulate_request {
  std::filesystem::path loads;
  std::uint32_t nodes{};
  std::uint32_t slots{};
  std::uint32_t zones{};  // 0: not given
  std::string planner{"troupe"};
  bool show_placement{};
  load_simulation settings;
};

const std::map<std::string, planner_kind>& planners() {
  static const std::map<std::string, planner_kind> all{{"troupe", planner_kind::troupe},
                                                       {"eplb", planner_kind::eplb},
                                                       {"eplb-hierarchical", planner_kind::eplb_hierarchical},
                                                       {"static", planner_kind::keep}};
  return all;
}

double rounded(double value) { return std::round(value * 1e6) / 1e6; }

// `--nodes N --slots S` or `--node-slots a,b,c`, and what follows from the planner.
result<load_simulation> settle(const simulate_request& request) {
  auto settings = request.settings;
  settings.planner = planners().at(request.planner);
  auto& slots = settings.node_slots;
  if (slots.empty()) {
    if (request.nodes == 0 || request.slots == 0) {
      return fail(errc::invalid_request,
                  "no nodes are given; use --nodes N --slots S (of all nodes) or --node-slots a,b,c");
    }
    if (request.slots < request.nodes) {
      return fail(errc::invalid_request,
                  fmt::format("{} slots are too few for {} nodes; --slots counts all nodes together", request.slots,
                              request.nodes));
    }
    for (std::uint32_t n = 0; n < request.nodes; ++n) {
      slots.push_back(request.slots / request.nodes + (n < request.slots % request.nodes ? 1 : 0));
    }
  } else if (request.nodes != 0 || request.slots != 0) {
    return fail(errc::invalid_request, "--node-slots says it all; leave out --nodes and --slots");
  }
  if (slots.size() > limits::nodes_max) {
    return fail(errc::invalid_request,
                fmt::format("{} nodes are more than {}; give fewer", slots.size(), limits::nodes_max));
  }
  if (request.zones > slots.size()) {
    return fail(errc::invalid_request,
                fmt::format("{} zones are more than {} nodes; give fewer", request.zones, slots.size()));
  }
  const bool grouped = settings.planner == planner_kind::eplb_hierarchical;
  settings.zones = request.zones > 0 ? request.zones : grouped ? eplb_machines : 1;
  return settings;
}

// [{layer, nodes: [[experts of node 0], ...]}]
json placement_document(const simulated_step& step, const load_trace& trace, const load_simulation& settings) {
  json layers = json::array();
  for (std::size_t l = 0; l < trace.layers.size(); ++l) {
    json nodes = json::array();
    auto slot = step.expert_of_slot[l].begin();
    for (auto count : settings.node_slots) {
      json experts = json::array();
      for (const auto end = slot + count; slot != end; ++slot) {
        if (*slot != coordinator::no_expert) experts.push_back(*slot);
      }
      nodes.push_back(std::move(experts));
    }
    layers.push_back({{"layer", trace.layers[l]}, {"nodes", std::move(nodes)}});
  }
  return layers;
}

result<exit_code> simulate(const session& s, const simulate_request& request) {
  const auto settings = settle(request);
  if (!settings) {
    print_error(settings.error().message);
    return exit_code::usage;
  }
  const auto trace = read_load_trace(request.loads);
  if (!trace) return fail(trace.error());
  const auto steps = simulate_loads(*trace, *settings, request.show_placement);
  if (!steps) return fail(steps.error());
  json items = json::array();
  for (const auto& step : *steps) {
    items.push_back({{"step", step.step},
                     {"imbalance_mean", rounded(step.imbalance_mean)},
                     {"imbalance_max", rounded(step.imbalance_max)},
                     {"moves_per_layer", rounded(step.moves_per_layer)},
                     {"wasted_slots_per_layer", rounded(step.wasted_slots_per_layer)},
                     {"plan_ms", rounded(step.plan_ms)}});
    if (request.show_placement) items.back()["placement"] = placement_document(step, *trace, *settings);
  }
  const auto& slots = settings->node_slots;
  s.print({{"planner", request.planner},
           {"nodes", slots.size()},
           {"slots", std::accumulate(slots.begin(), slots.end(), std::uint64_t{0})},
           {"layers", trace->layers.size()},
           {"max_moves", settings->moves_max},
           {"items", items}},
          {.items = "items",
           .columns = {{"STEP", "step", cell::count},
                       {"IMBALANCE MEAN", "imbalance_mean", cell::share},
                       {"MAX", "imbalance_max", cell::share},
                       {"MOVES PER LAYER", "moves_per_layer", cell::count},
                       {"WASTED SLOTS", "wasted_slots_per_layer", cell::count},
                       {"PLAN MS", "plan_ms", cell::count}},
           .name = "{step}"});
  return exit_code::ok;
}

}  // namespace

void add_simulate_verb(verb_registry& verbs) {
  auto request = std::make_shared<simulate_request>();
  auto& verb = verbs.verb(
      "simulate", "What a planner does with loads that are known, step by step; needs no cluster.",
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --max-moves 25\n"
      "  troupe simulate --loads loads.csv --node-slots 12,12,6,6 --zones 2 -o json --show-placement\n"
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --planner eplb-hierarchical --groups 8 --zones 4",
      [request](const session& s) { return simulate(s, *request); });
  verb.add_option("--loads", request->loads, "CSV file with the columns step,layer,expert,load")
      ->required()
      ->type_name("FILE");
  verb.add_option("--nodes", request->nodes, "nodes, all equally fast")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max));
  verb.add_option("--slots", request->slots, "slots for each layer, of all nodes together")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max * limits::experts_per_layer_max));
  verb.add_option("--node-slots", request->settings.node_slots,
                  "slots of each node for each layer, instead of these two")
      ->delimiter(',')
      ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max));
  verb.add_option("--planner", request->planner, "troupe, eplb, eplb-hierarchical or static [troupe]")
      ->check(CLI::IsMember(planners()));
  verb.add_option("--max-moves", request->settings.moves_max, "per layer and step; -1: as many as help [-1]")
      ->check(CLI::Range(-1, 1'000'000));
  verb.add_option("--target", request->settings.imbalance_target,
                  "with --max-moves, an imbalance that is good enough to move nothing [0.05]")
      ->check(CLI::Range(0.0, 10.0));
  verb.add_option(
          "--zones", request->zones,
          "runs of nodes that fail together: replicas are spread over them [1]; machines for eplb-hierarchical [4]")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max));
  verb.add_option("--groups", request->settings.groups, "groups of experts, for eplb-hierarchical [8]")
      ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max));
  verb.add_flag("--show-placement", request->show_placement, "what each node holds after each step (-o json or yaml)");
}

}  // namespace troupe::cli
