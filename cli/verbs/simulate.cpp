// troupe simulate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "cli/application.hpp"
#include "cli/load_trace.hpp"
#include "cli/simulation/load_simulation.hpp"
#include "cli/simulation/simulation_plot.hpp"
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
constexpr std::uint32_t compared_eplb_every = 12;

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
  std::vector<std::string> policies;  // words of policy_words
  std::chrono::milliseconds prune_window{limits::prune_window};
  simulated_policies policy;
  bool compares{};
  std::uint32_t eplb_every{};  // 0: not given
  std::filesystem::path csv, plot;
  // Options that make sense only with others: were they given?
  std::vector<const CLI::Option*> only_synthetic, only_policies, only_planner;
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

result<void> refuse_given(const std::vector<const CLI::Option*>& options, const char* why) {
  for (const auto* option : options) {
    if (option->count() > 0) return fail(errc::invalid_request, fmt::format("{} {}", option->get_name(), why));
  }
  return {};
}

result<void> check_source(const simulate_request& request) {
  if (request.loads.empty() == request.synthetic.empty()) {
    return fail(errc::invalid_request, request.loads.empty()
                                           ? "no loads are given; use --loads FILE.csv or --synthetic SHAPE"
                                           : "both --loads and --synthetic are given; leave out one of them");
  }
  if (!request.synthetic.empty()) return {};
  return refuse_given(request.only_synthetic,
                      "describes synthetic loads; leave it out with --loads, or use --synthetic instead");
}

bool has_policy(const simulate_request& request, const char* word) {
  return std::ranges::find(request.policies, word) != request.policies.end();
}

result<void> check_placing(const simulate_request& request) {
  if (request.policies.empty()) {
    if (auto good = refuse_given(request.only_policies, "is for policies; add --policies add,balance,prune"); !good) {
      return good;
    }
  } else if (auto good = refuse_given(request.only_planner,
                                      "is for a planner, and with --policies the policies decide; leave out one");
             !good) {
    return good;
  }
  if (has_policy(request, "add") && request.policy.active_experts == 0) {
    return fail(errc::invalid_request,
                "--policies add has nothing to add; say with how many experts per layer it "
                "starts: --active-experts K");
  }
  if (request.eplb_every > 0 && !request.compares && !request.planner.starts_with("eplb")) {
    return fail(errc::invalid_request, "--eplb-every is for EPLB; add --compare or --planner eplb");
  }
  if (request.compares && request.show_placement) {
    return fail(errc::invalid_request, "--show-placement is for one planner; leave it or --compare out");
  }
  if (request.compares && (request.planner.starts_with("eplb") || request.planner == "static")) {
    return fail(errc::invalid_request, "--compare shows static and EPLB beside Troupe already; leave out --planner");
  }
  return {};
}

// The planner or policies, and what they are compared with.
std::vector<placing> contenders(const simulate_request& request) {
  std::vector<placing> all;
  all.reserve(3);
  if (request.policies.empty()) {
    all.emplace_back(request.planning);
  } else {
    auto policy = request.policy;
    policy.step_minutes = request.shape.step_minutes;
    policy.policies.adds = has_policy(request, "add");
    policy.policies.balances = has_policy(request, "balance");
    policy.policies.prunes = has_policy(request, "prune");
    policy.policies.prune_window = request.prune_window;
    all.emplace_back(policy);
  }
  if (request.compares) {
    all.emplace_back(planner_settings{.kind = planner_kind::keep});
    all.emplace_back(planner_settings{.kind = planner_kind::eplb, .eplb_every = request.planning.eplb_every});
  }
  return all;
}

// Opens what will be written, so that a bad path is known before an hour is simulated.
result<std::ofstream> open_to_write(const std::filesystem::path& file) {
  std::ofstream out{file};
  if (out) return out;
  return fail(
      errc::invalid_request,
      fmt::format("{} cannot be written; give a file in a folder that exists and is yours", printable(file.string())));
}

// Fills in what follows from other flags.
result<simulate_request> settle(simulate_request request) {
  if (auto good = check_source(request); !good) return fail(good.error());
  if (auto good = check_placing(request); !good) return fail(good.error());
  auto slots = settle_slots(request);
  if (!slots) return fail(slots.error());
  request.cluster.node_slots = *slots;
  if (request.zones > slots->size()) {
    return fail(errc::invalid_request,
                fmt::format("{} zones are more than {} nodes; give fewer", request.zones, slots->size()));
  }
  auto& planning = request.planning;
  planning.kind = planners().at(request.planner);
  planning.eplb_every = request.eplb_every > 0 ? request.eplb_every : request.compares ? compared_eplb_every : 1;
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

json head_document(const simulate_request& request, const load_source& source) {
  const auto& slots = request.cluster.node_slots;
  return {{"planner", request.policies.empty() ? request.planner : "policies"},
          {"nodes", slots.size()},
          {"slots", std::accumulate(slots.begin(), slots.end(), std::uint64_t{0})},
          {"layers", source.layers.size()},
          {"max_moves", request.planning.moves_max}};
}

json step_documents(const simulate_request& request, const load_source& source, const simulated_run& run) {
  json documents = json::array();
  for (const auto& step : run.steps) {
    documents.push_back(step_document(step));
    if (request.show_placement) {
      documents.back()["placement"] = placement_document(step, source.layers, request.cluster.node_slots);
    }
  }
  return documents;
}

// One run of a file is shown by step; of a day, or of several, a person gets the sum.
void show(const session& s, const simulate_request& request, const load_source& source,
          const std::vector<simulated_run>& runs) {
  auto document = head_document(request, source);
  const auto num_layers = source.layers.size();
  if (request.compares || (s.prints_pages() && request.loads.empty())) {
    document["items"] = json::array();
    for (const auto& run : runs) {
      document["items"].push_back(summary_document(run, num_layers));
      if (!s.prints_pages()) document["items"].back()["items"] = step_documents(request, source, run);
    }
    s.print(document, summary_view());
    return;
  }
  const auto& run = runs.front();
  document["digest"] = digest_text(run.digest);
  document["summary"] = summary_document(run, num_layers);
  document["items"] = step_documents(request, source, run);
  s.print(document, step_view());
  if (s.prints_pages()) fmt::print("digest {}\n", digest_text(run.digest));
}

result<exit_code> run_and_show(const session& s, const simulate_request& request, const load_source& source) {
  if (auto good = check_shown(request, source); !good) return fail(good.error());
  std::ofstream csv, plot;
  for (auto [file, path] : {std::pair{&csv, &request.csv}, {&plot, &request.plot}}) {
    if (path->empty()) continue;
    auto opened = open_to_write(*path);
    if (!opened) return fail(opened.error());
    *file = std::move(*opened);
  }
  const auto runs = simulate_loads(source, request.cluster, contenders(request), request.show_placement);
  if (!runs) return fail(runs.error());
  if (csv.is_open()) csv << csv_text(*runs);
  if (plot.is_open()) plot << plot_svg(*runs, request.loads.empty() ? request.shape.step_minutes : 0);
  csv.flush();
  plot.flush();
  if (!csv || !plot) return fail(errc::no_space, "the CSV file or the plot was not written whole; is the disk full?");
  show(s, request, source, *runs);
  return exit_code::ok;
}

result<exit_code> simulate(const session& s, const simulate_request& given) {
  const auto request = settle(given);
  if (!request) {
    print_error(request.error().message);
    return exit_code::usage;
  }
  if (request->loads.empty()) return run_and_show(s, *request, source_of(request->shape));
  const auto trace = read_load_trace(request->loads);
  if (!trace) return fail(trace.error());
  return run_and_show(s, *request, source_of(*trace));
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
      verb.add_option("--layers", shape.layers, "with synthetic loads [61]")
          ->check(CLI::Range(std::size_t{1}, limits::layers_max)),
      verb.add_option("--experts", shape.experts, "of each layer, with synthetic loads [256]")
          ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max)),
      verb.add_option("--zipf", shape.zipf, "exponent of the popularity of experts; 0: all alike [0.8]")
          ->check(CLI::Range(0.0, 3.0)),
      verb.add_option("--noise", shape.noise, "sigma of log-normal noise in each step [0.1]")
          ->check(CLI::Range(0.0, 2.0))};
  verb.add_option("--step-minutes", shape.step_minutes, "virtual time of a step [5]")->check(CLI::Range(1, 1440));
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
  request.only_planner = {
      verb.add_option("--planner", request.planner, "troupe, eplb, eplb-hierarchical or static [troupe]")
          ->check(CLI::IsMember(planners())),
      verb.add_option("--max-moves", request.planning.moves_max, "per layer and step; -1: as many as help [-1]")
          ->check(CLI::Range(-1, 1'000'000)),
      verb.add_option("--target", request.planning.imbalance_target,
                      "with --max-moves, an imbalance that is good enough to move nothing [0.05]")
          ->check(CLI::Range(0.0, 10.0)),
      verb.add_option("--groups", request.planning.groups, "groups of experts, for eplb-hierarchical [8]")
          ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max))};
  verb.add_option("--eplb-every", request.eplb_every, "steps between two plans of EPLB [1; with --compare 12]")
      ->check(CLI::Range(1, 1'000'000));
  verb.add_flag("--hindsight", request.cluster.hindsight,
                "plan from the loads of the step before, as a coordinator must, not from those of the step itself");
}

void add_policy_options(CLI::App& verb, simulate_request& request) {
  verb.add_option("--policies", request.policies,
                  "instead of a planner, what the coordinator does by itself: add, balance, prune")
      ->delimiter(',')
      ->check(CLI::IsMember({"add", "balance", "prune"}));
  request.only_policies = {
      verb.add_option("--active-experts", request.policy.active_experts, "per layer, in the beginning; 0: all [0]")
          ->check(CLI::Range(std::size_t{0}, limits::experts_per_layer_max)),
      verb.add_option("--top-k", request.policy.top_k, "experts per layer that pruning leaves at least [8]")
          ->check(CLI::Range(std::size_t{1}, limits::experts_per_layer_max)),
      verb.add_option("--prune-share", request.policy.policies.prune_share,
                      "prune what has less than this share of its layer's rows [0.02]")
          ->check(CLI::Range(0.0, 1.0)),
      add_duration(verb, "--prune-window", request.prune_window, "for as long as this [24h]")};
  request.policy.top_k = 8;
}

void add_report_options(CLI::App& verb, simulate_request& request) {
  verb.add_flag("--compare", request.compares, "beside it, static and EPLB every so many steps, with the same loads");
  verb.add_option("--csv", request.csv, "every figure of every step")->type_name("FILE");
  verb.add_option("--plot", request.plot, "the figures over time, as a picture")->type_name("FILE.svg");
  verb.add_flag("--show-placement", request.show_placement, "what each node holds after each step (-o json or yaml)");
}

}  // namespace

void add_simulate_verb(verb_registry& verbs) {
  auto request = std::make_shared<simulate_request>();
  auto& verb = verbs.verb(
      "simulate", "What a planner does with loads that are known or made up, step by step; needs no cluster.",
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --max-moves 25\n"
      "  troupe simulate --loads loads.csv --node-slots 12,12,6,6 --zones 2 -o json --show-placement\n"
      "  troupe simulate --loads loads.csv --nodes 32 --slots 288 --planner eplb-hierarchical --groups 8 --zones 4\n"
      "  troupe simulate --synthetic node-loss --nodes 1000 --slots 1024 --max-moves 25 --seed 7\n"
      "  troupe simulate --synthetic domain-shift --nodes 32 --slots 288 --compare --csv day.csv --plot day.svg\n"
      "  troupe simulate --synthetic drift --nodes 8 --slots 128 --experts 64 --policies add,balance --active-experts "
      "16",
      [request](const session& s) { return simulate(s, *request); });
  add_load_options(verb, *request);
  add_cluster_options(verb, *request);
  add_planner_options(verb, *request);
  add_policy_options(verb, *request);
  add_report_options(verb, *request);
}

}  // namespace troupe::cli
