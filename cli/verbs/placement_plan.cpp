// troupe placement plan and apply.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/load_trace.hpp"
#include "cli/operations.hpp"
#include "cli/placement_advice.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

struct plan_request {
  std::filesystem::path loads;  // empty: the last minute's
  coordinator::load_planner_settings settings{.moves_max = 4};
  std::chrono::milliseconds timeout{std::chrono::minutes{10}};  // apply
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

struct made_plan {
  json experts;  // `expert list`, from which it starts
  json plan;
};

result<made_plan> make_plan(admin_client& coordinator, const plan_request& request) {
  auto experts = coordinator.ask({query_kind::experts});
  if (!experts) return fail(experts.error());
  const auto nodes = coordinator.ask({query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  auto loads = window_loads(*experts);
  if (!request.loads.empty()) {
    auto given = loads_of_file(request.loads, loads);
    if (!given) return fail(given.error());
    loads = std::move(*given);
  }
  auto planned = plan_document(*experts, *nodes, loads, request.settings);
  if (!planned) return fail(planned.error());
  return made_plan{std::move(*experts), std::move(*planned)};
}

// Where the experts that the plan moves are in the end.
std::map<expert_id, std::vector<std::string>> places_after(const made_plan& made) {
  std::map<expert_id, std::vector<std::string>> all, moved;
  const auto id_of = [](const json& item, const char* expert) {
    return expert_id{parse_layer(layer_name(item.at("layer"))).value(), item.at(expert).get<std::uint32_t>()};
  };
  for (const auto& expert : made.experts.at("items")) {
    auto& nodes = all[id_of(expert, "expert")];
    for (const auto& replica : expert.at("replicas")) nodes.push_back(replica.at("node"));
  }
  for (const auto& item : made.plan.at("items")) {
    const auto gains = id_of(item, "expert");
    all[gains].push_back(item.at("to"));
    moved[gains];
    if (item.at("from").is_string()) std::erase(all[gains], item.at("from").get<std::string>());
    if (item.at("instead_of").is_null()) continue;
    const auto loses = id_of(item, "instead_of");
    std::erase(all[loses], item.at("to").get<std::string>());
    moved[loses];
  }
  for (auto& [expert, nodes] : moved) nodes = all[expert];
  return moved;
}

result<exit_code> apply(const session& s, const plan_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto made = make_plan(*coordinator, request);
  if (!made) return fail(made.error());
  if (made->plan.at("items").empty()) {
    print_note("the plan moves nothing");
    return exit_code::ok;
  }
  const auto answer = coordinator->apply(places_after(*made), s.options().dry_run);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout);
}

result<exit_code> plan(const session& s, const plan_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto made = make_plan(*coordinator, request);
  if (!made) return fail(made.error());
  const auto* planned = &made->plan;
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

void add_placement_plan_verbs(verb_registry& verbs, CLI::App& placement) {
  const auto add = [&](const char* name, const char* help, const char* examples,
                       result<exit_code> (*action)(const session&, const plan_request&))
      -> std::pair<CLI::App&, std::shared_ptr<plan_request>> {
    auto request = std::make_shared<plan_request>();
    auto& verb = verbs.verb(placement, name, help, examples,
                            [request, action](const session& s) { return action(s, *request); });
    verb.add_option("--loads", request->loads, "CSV file (step,layer,expert,load), its last step [the last minute]")
        ->type_name("FILE");
    verb.add_option("--max-moves", request->settings.moves_max, "per layer; -1: as many as help [4]")
        ->check(CLI::Range(-1, 1'000'000));
    verb.add_option("--target", request->settings.imbalance_target,
                    "with a limit of moves, this much above even is good enough to move nothing [0.05]")
        ->check(CLI::Range(0.0, 10.0));
    return {verb, request};
  };
  add("plan", "What the load planner would move; nothing is carried out.",
      "  troupe placement plan\n  troupe placement plan --loads loads.csv --max-moves -1 -o json", &plan);
  auto [verb, request] = add("apply", "Carry out what placement plan shows, as one operation.",
                             "  troupe placement apply --dry-run\n  troupe placement apply", &apply);
  add_duration(verb, "--timeout", request->timeout, "how long to wait [10m]");
}

}  // namespace troupe::cli
