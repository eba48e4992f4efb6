// troupe placement plan.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/load_trace.hpp"
#include "cli/placement_advice.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

struct plan_request {
  std::filesystem::path loads;  // empty: the last minute's
  coordinator::load_planner_settings settings{.moves_max = 4};
};

// Of the newest step. The file numbers layers, so the model's must have numbers.
result<loads_by_layer> loads_of_file(const std::filesystem::path& file, const loads_by_layer& known) {
  const auto trace = read_load_trace(file);
  if (!trace) return fail(trace.error());
  loads_by_layer loads;
  trace->each_step([&](std::uint32_t, const auto& values) {
    for (std::size_t l = 0; l < values.size(); ++l) loads[std::to_string(trace->layers[l])] = values[l];
  });
  for (const auto& [layer, values] : loads) {
    if (!known.contains(layer))
      return fail(errc::invalid_request,
                  fmt::format("{} has loads of layer {}; the first MoE layer of this model is {}", file.string(), layer,
                              known.empty() ? "none" : known.begin()->first));
  }
  return loads;
}

std::string plan_page(const json& plan) {
  json head = plan;
  for (const char* key : {"imbalance_before", "imbalance_after"}) {
    if (plan.at(key).is_number()) head[key] = fmt::format("{:.3f}", plan.at(key).get<double>());
  }
  auto page = render(head, output_format::table,
                     {.items = "",
                      .columns = {{"IMBALANCE NOW", "imbalance_before"},
                                  {"IMBALANCE THEN", "imbalance_after"},
                                  {"MOVES", "moves"},
                                  {"BYTES TO COPY", "bytes", cell::bytes}},
                      .name = "",
                      .vertical = true});
  if (plan.at("items").empty()) return page;
  return page + '\n' +
         render(plan, output_format::table,
                {.items = "items",
                 .columns = {{"LAYER", "layer"},
                             {"EXPERT", "expert", cell::count},
                             {"TO", "to"},
                             {"FROM", "from"},
                             {"IN PLACE OF", "instead_of", cell::count},
                             {"REASON", "reason"},
                             {"BYTES", "bytes", cell::bytes}},
                 .name = ""});
}

result<exit_code> plan(const session& s, const plan_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto experts = coordinator->ask({query_kind::experts});
  if (!experts) return fail(experts.error());
  const auto nodes = coordinator->ask({query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  auto loads = window_loads(*experts);
  if (!request.loads.empty()) {
    auto given = loads_of_file(request.loads, loads);
    if (!given) return fail(given.error());
    loads = std::move(*given);
  }
  const auto planned = plan_document(*experts, *nodes, loads, request.settings);
  if (!planned) return fail(planned.error());
  if (planned->at("imbalance_before").is_null())
    print_note("no traffic in the last minute, so there is nothing to plan for; give loads with --loads FILE");
  if (s.prints_pages()) {
    std::cout << plan_page(*planned) << std::flush;
  } else {
    s.print(*planned, {.items = "items", .columns = {}, .name = "{layer}/{expert}"});
  }
  return exit_code::ok;
}

}  // namespace

void add_placement_plan_verb(verb_registry& verbs, CLI::App& placement) {
  auto request = std::make_shared<plan_request>();
  auto& verb = verbs.verb(placement, "plan", "What the load planner would move; nothing is carried out.",
                          "  troupe placement plan\n  troupe placement plan --loads loads.csv --max-moves -1 -o json",
                          [request](const session& s) { return plan(s, *request); });
  verb.add_option("--loads", request->loads, "CSV file (step,layer,expert,load), its last step [the last minute]")
      ->type_name("FILE");
  verb.add_option("--max-moves", request->settings.moves_max, "per layer; -1: as many as help [4]")
      ->check(CLI::Range(-1, 1'000'000));
  verb.add_option("--target", request->settings.imbalance_target,
                  "with a limit of moves, this much above even is good enough to move nothing [0.05]")
      ->check(CLI::Range(0.0, 10.0));
}

}  // namespace troupe::cli
