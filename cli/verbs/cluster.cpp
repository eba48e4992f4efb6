// troupe down, status and events.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/interrupt.hpp"
#include "cli/launcher.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds watch_interval{500};

view status_view() {
  return {.items = "",
          .columns = {{"CLUSTER", "cluster_id"},
                      {"STATE", "state"},
                      {"MODEL", "model/name"},
                      {"FAMILY", "model/family"},
                      {"MOE LAYERS", "model/layers"},
                      {"EXPERTS PER LAYER", "model/experts_per_layer"},
                      {"NODES", "node_states"},
                      {"ROUTING", "routing"},
                      {"TERM", "term"},
                      {"EPOCH", "epoch"},
                      {"UNROUTABLE EXPERTS", "unroutable_experts"},
                      {"OPERATIONS RUNNING", "operations_running"},
                      {"REASONS", "reasons"}},
          .name = "{cluster_id}",
          .vertical = true};
}

view events_view() {
  return {.items = "items",
          .columns = {{"ID", "id", cell::count},
                      {"TIME", "time"},
                      {"SEVERITY", "severity"},
                      {"KIND", "kind"},
                      {"OBJECT", "object"},
                      {"WHAT", "text"}},
          .name = "{id}"};
}

result<exit_code> down(const session& s) {
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  const auto context = load_context(*data_dir);
  if (!context && context.error().code == errc::unavailable) {
    print_note(fmt::format("no cluster in {}; nothing to stop", data_dir->string()));
    return exit_code::ok;
  }
  if (!context) return fail(context.error());
  const auto running = running_processes(*context);
  if (s.options().dry_run) {
    for (const auto& process : running)
      print_note(fmt::format("would stop {} (pid {})", process.name, process.identity.pid));
    return exit_code::ok;
  }
  const auto killed = stop_cluster(*data_dir, *context);
  if (!killed) return fail(killed.error());
  print_note(running.empty() ? fmt::format("the cluster of {} was stopped already", data_dir->string())
                             : fmt::format("stopped {} processes", running.size()));
  if (!killed->empty())
    print_note(fmt::format("{} did not stop in time and had to be killed", fmt::join(*killed, ", ")));
  return exit_code::ok;
}

json stopped_status(const cluster_context& context) {
  return {{"cluster_id", context.cluster_id},
          {"state", "stopped"},
          {"term", 0},
          {"epoch", 0},
          {"model",
           {{"name", context.model.filename().string()},
            {"family", nullptr},
            {"layers", nullptr},
            {"experts_per_layer", nullptr}}},
          {"nodes", json::array()},
          {"unroutable_experts", 0},
          {"operations_running", 0}};
}

// "4 serving, 1 lost"
std::string summary_of_nodes(const json& status) {
  if (!status.contains("nodes") || !status.at("nodes").is_array()) {
    return status.contains("nodes") ? status.at("nodes").dump() : "-";
  }
  std::vector<std::pair<std::string, int>> counts;
  for (const auto& node : status.at("nodes")) {
    const std::string state = node.value("state", "unknown");
    auto found = std::find_if(counts.begin(), counts.end(), [&](const auto& entry) { return entry.first == state; });
    if (found == counts.end()) found = counts.insert(counts.end(), {state, 0});
    ++found->second;
  }
  std::string text;
  for (const auto& [state, count] : counts) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, state);
  return text.empty() ? "none" : text;
}

std::string summary_of_routing(const json& status) {
  if (!status.contains("route_groups")) return "as the model defines it";
  const auto& limit = status.at("route_groups");
  return fmt::format("approximate: inside {} of {} groups of experts", limit.at("kept").get<std::uint32_t>(),
                     limit.at("groups").get<std::uint32_t>());
}

result<exit_code> status(const session& s) {
  const auto context = s.context();
  if (!context) return fail(context.error());
  json document;
  if (running_processes(*context).empty()) {
    document = stopped_status(*context);
  } else {
    auto answer = fetch_document(s, {query_kind::status});
    if (!answer) return fail(answer.error());
    document = std::move(*answer);
  }
  if (s.prints_pages()) {
    document["node_states"] = summary_of_nodes(document);
    document["routing"] = summary_of_routing(document);
  }
  s.print(document, status_view());
  return exit_code::ok;
}

result<exit_code> events(const session& s, bool watch) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  if (watch) install_interrupt_handler();
  std::uint64_t seen = 0;
  while (true) {
    auto answer = coordinator->ask({.kind = query_kind::events, .layer = "", .node = "", .events_after = seen});
    if (!answer) return fail(answer.error());
    const auto& items = answer->at("items");
    if (!watch || !items.empty()) s.print(*answer, events_view());
    if (!items.empty()) seen = items.back().at("id").get<std::uint64_t>();
    if (!watch) return exit_code::ok;
    if (wait_for_interrupt(watch_interval)) return exit_code::interrupted;
  }
}

}  // namespace

void add_cluster_verbs(verb_registry& verbs) {
  verbs.verb("down", "Stop the cluster: finish what was accepted, then end every process.",
             "  troupe down\n  troupe down --data-dir /srv/troupe/test", &down);
  verbs.verb("status", "One page of truth about the cluster.", "  troupe status\n  troupe status -o json", &status);
  auto watch = std::make_shared<bool>(false);
  auto& verb =
      verbs.verb("events", "What happened: nodes that came and went, experts that moved, and why.",
                 "  troupe events\n  troupe events -w", [watch](const session& s) { return events(s, *watch); });
  verb.add_flag("-w,--watch", *watch, "go on printing until Ctrl-C");
}

}  // namespace troupe::cli
