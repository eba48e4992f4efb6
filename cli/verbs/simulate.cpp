// troupe simulate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "cli/application.hpp"
#include "cli/load_trace.hpp"
#include "cli/simulation/load_simulation.hpp"
#include "cli/simulation/simulation_report.hpp"
#include "cli/simulation/synthetic_loads.hpp"
#include "cli/terminal.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

// Of the published balancer's description.
constexpr std::uint32_t eplb_machines = 4;
// Node losses that a synthetic day of 24 hours tries, and how long one lasts.
constexpr std::uint32_t losses_min = 4, nodes_per_loss = 10;
constexpr double loss_minutes_mean = 30;

struct simulate_request {
  std::filesystem::path loads;
  std::string synthetic;
  std::uint32_t nodes{};
  std::uint32_t slots{};
  std::uint32_t zones{};  // 0: not given
  std::string planner{"troupe"};
  bool show_placement{};
  synthetic_settings shape;
  simulated_cluster cluster;
  planner_settings planning{.groups = 8};
  std::vector<const CLI::Option*> only_synthetic;
};

const std::map<std::string, planner_kind>& planners() {
  static const std::map<std::string, planner_kind> all{{"troupe", planner_kind::troupe},
                                                       {"eplb", planner_kind::eplb},
                                                       {"eplb-hierarchical", planner_kind::eplb_hierarchical},
                                                       {"static", planner_kind::keep}};
  return all;
}
const std::map<std::string, load_shape>& shapes() {
  static const std::map<std::string, load_shape> all{{"zipf", load_shape::zipf},
                                                     {"drift", load_shape::drift},
                                                     {"domain-shift", load_shape::domain_shift},
                                                     {"flash-crowd", load_shape::flash_crowd},
                                                     {"node-loss", load_shape::node_loss}};
  return all;
}

// `--nodes N --slots S` or `--node-slots a,b,c`.
result<std::vector<std::uint32_t>> settle_slots(const simulate_request& request) {
  auto slots = request.cluster.node_slots;
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
  return slots;
}

result<void> check_source(const simulate_request& request) {
  if (request.loads.empty() == request.synthetic.empty()) {
    return fail(errc::invalid_request, request.loads.empty()
                                           ? "no loads are given; use --loads FILE.csv or --synthetic SHAPE"
                                           : "both --loads and --synthetic are given; leave out one of them");
  }
  if (!request.synthetic.empty()) return {};
  for (const auto* option : request.only_synthetic) {
    if (option->count() > 0) {
      return fail(errc::invalid_request, fmt::format("{} describes synthetic loads; leave it out with --loads, or use "
                                                     "--synthetic instead",
                                                     option->get_name()));
    }
  }
  return {};
}

// Fills in what follows from other flags.
result<simulate_request> settle(simulate_request request) {
  if (auto good = check_source(request); !good) return fail(good.error());
  auto slots = settle_slots(request);
  if (!slots) return fail(slots.error());
  request.cluster.node_slots = *slots;
  if (request.zones > slots->size()) {
    return fail(errc::invalid_request,
                fmt::format("{} zones are more than {} nodes; give fewer", request.zones, slots->size()));
  }
  auto& planning = request.planning;
  planning.kind = planners().at(request.planner);
  const bool grouped = planning.kind == planner_kind::eplb_hierarchical;
  request.cluster.zones = planning.machines = request.zones > 0 ? request.zones : grouped ? eplb_machines : 1;
  if (request.synthetic.empty()) return request;
  auto& shape = request.shape;
  shape.shape = shapes().at(request.synthetic);
  if (count_steps(shape) > limits::simulated_steps_max) {
    return fail(errc::invalid_request,
                fmt::format("{} hours in steps of {} minutes are {} steps, more than {}; give fewer --hours or more "
                            "--step-minutes",
                            shape.hours, shape.step_minutes, count_steps(shape), limits::simulated_steps_max));
  }
  if (shape.shape == load_shape::node_loss) {
    const double days = shape.hours / 24;
    const auto losses = losses_min + static_cast<double>(slots->size()) / nodes_per_loss * days;
    request.cluster.calendar = {*slots,
                                {.seed = shape.seed,
                                 .losses = static_cast<std::uint32_t>(losses),
                                 .steps = count_steps(shape),
                                 .steps_away_mean = loss_minutes_mean / shape.step_minutes,
                                 .slots_min = shape.experts}};
  }
  return request;
}

result<void> check_shown(const simulate_request& request, const load_source& source) {
  const auto& slots = request.cluster.node_slots;
  const auto numbers =
      std::accumulate(slots.begin(), slots.end(), std::uint64_t{0}) * source.layers.size() * source.steps;
  if (!request.show_placement || numbers <= limits::shown_slots_max) return {};
  return fail(errc::invalid_request,
              fmt::format("--show-placement would print {} slots, more than {}; give fewer steps, layers or slots",
                          numbers, limits::shown_slots_max));
}

result<exit_code> simulate(const session& s, const simulate_request& given) {
  const auto request = settle(given);
  if (!request) {
    print_error(request.error().message);
    return exit_code::usage;
  }
  std::optional<load_trace> trace;
  if (!request->loads.empty()) {
    auto read = read_load_trace(request->loads);
    if (!read) return fail(read.error());
    trace = std::move(*read);
  }
  const auto source = trace ? source_of(*trace) : source_of(request->shape);
  if (auto good = check_shown(*request, source); !good) return fail(good.error());
  const auto runs = simulate_loads(source, request->cluster, {&request->planning, 1}, request->show_placement);
  if (!runs) return fail(runs.error());
  const auto& run = runs->front();
  const auto& slots = request->cluster.node_slots;
  json document{{"planner", request->planner},
                {"nodes", slots.size()},
                {"slots", std::accumulate(slots.begin(), slots.end(), std::uint64_t{0})},
                {"layers", source.layers.size()},
                {"max_moves", request->planning.moves_max}};
  const auto summary = summary_document(run, source.layers.size());
  document["digest"] = summary["digest"];
  // A day has hundreds of steps: a person gets the sum of it.
  if (s.prints_pages() && !trace) {
    document["items"] = json::array({summary});
    document["items"][0]["planner"] = request->planner;
    s.print(document, summary_view());
    return exit_code::ok;
  }
  document["summary"] = summary;
  document["items"] = json::array();
  for (const auto& step : run.steps) {
    document["items"].push_back(step_document(step));
    if (request->show_placement) {
      document["items"].back()["placement"] = placement_document(step, source.layers, slots);
    }
  }
  s.print(document, step_view());
  if (s.prints_pages()) fmt::print("digest {}\n", digest_text(run.digest));
  return exit_code::ok;
}

void add_load_options(CLI::App& verb, simulate_request& request) {
  verb.add_option("--loads", request.loads, "CSV file with the columns step,layer,expert,load")->type_name("FILE");
  verb.add_option("--synthetic", request.synthetic,
                  "instead of --loads: zipf, drift, domain-shift, flash-crowd or node-loss")
      ->check(CLI::IsMember(shapes()));
  auto& shape = request.shape;
  request.only_synthetic = {
      verb.add_option("--seed", shape.seed, "of synthetic loads: the same seed, the same digest [1]"),
      verb.add_option("--hours", shape.hours, "virtual time of synthetic loads [24]")
          ->check(CLI::Range(0.01, 10'000.0)),
      verb.add_option("--step-minutes", shape.step_minutes, "between two plans, with synthetic loads [5]")
          ->check(CLI::Range(1, 1440)),
      verb.add_option("--layers", shape.layers, "with synthetic loads [61]")
          ->check(CLI::Range(std::size_t{1}, limits::layers_max)),
      verb.add_option("--experts", shape.experts, "of each layer, with synthetic loads [256]")
          ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max)),
      verb.add_option("--zipf", shape.zipf, "exponent of the popularity of experts; 0: all alike [0.8]")
          ->check(CLI::Range(0.0, 3.0)),
      verb.add_option("--noise", shape.noise, "sigma of log-normal noise in each step [0.1]")
          ->check(CLI::Range(0.0, 2.0))};
}

void add_cluster_options(CLI::App& verb, simulate_request& request) {
  verb.add_option("--nodes", request.nodes, "nodes, all equally fast")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max));
  verb.add_option("--slots", request.slots, "slots for each layer, of all nodes together")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max * limits::experts_per_layer_max));
  verb.add_option("--node-slots", request.cluster.node_slots, "slots of each node for each layer, instead of these two")
      ->delimiter(',')
      ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max));
  verb.add_option(
          "--zones", request.zones,
          "runs of nodes that fail together: replicas are spread over them [1]; machines for eplb-hierarchical [4]")
      ->check(CLI::Range(std::size_t{1}, limits::nodes_max));
  request.cluster.expert_bytes = 42 * limits::mib;  // 3 x 7168 x 2048 parameters of one byte
  verb.add_option("--expert-bytes", request.cluster.expert_bytes, "size of one expert [42MiB]")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
}

void add_planner_options(CLI::App& verb, simulate_request& request) {
  verb.add_option("--planner", request.planner, "troupe, eplb, eplb-hierarchical or static [troupe]")
      ->check(CLI::IsMember(planners()));
  verb.add_option("--max-moves", request.planning.moves_max, "per layer and step; -1: as many as help [-1]")
      ->check(CLI::Range(-1, 1'000'000));
  verb.add_option("--target", request.planning.imbalance_target,
                  "with --max-moves, an imbalance that is good enough to move nothing [0.05]")
      ->check(CLI::Range(0.0, 10.0));
  verb.add_option("--groups", request.planning.groups, "groups of experts, for eplb-hierarchical [8]")
      ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max));
  verb.add_flag("--hindsight", request.cluster.hindsight,
                "plan from the loads of the step before, as a coordinator must, not from those of the step itself");
}

}  // namespace

void add_simulate_verb(verb_registry& verbs) {
  auto request = std::make_shared<simulate_request>();
  auto& verb = verbs.verb(
      "simulate", "What a planner does with loads that are known or made up, step by step; needs no cluster.",
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --max-moves 25\n"
      "  troupe simulate --loads loads.csv --node-slots 12,12,6,6 --zones 2 -o json --show-placement\n"
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --planner eplb-hierarchical --groups 8 --zones 4\n"
      "  troupe simulate --synthetic node-loss --nodes 1000 --slots 1024 --max-moves 25 --seed 7",
      [request](const session& s) { return simulate(s, *request); });
  add_load_options(verb, *request);
  add_cluster_options(verb, *request);
  add_planner_options(verb, *request);
  verb.add_flag("--show-placement", request->show_placement, "what each node holds after each step (-o json or yaml)");
}

}  // namespace troupe::cli
