// troupe refresh now, schedule, pause and history.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/operations.hpp"
#include "cli/terminal.hpp"
#include "common/ids.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

struct refresh_request {
  std::string folder;
  std::string layer;
  std::chrono::milliseconds timeout{std::chrono::minutes{30}};
};

// Absolute; the model's own folder when none is given.
result<std::string> folder_to_read(const session& s, const std::string& given) {
  std::filesystem::path folder = given;
  if (given.empty()) {
    const auto cluster = s.context();
    if (!cluster) return fail(cluster.error());
    folder = cluster->model;
  }
  std::error_code failure;
  const auto absolute = std::filesystem::weakly_canonical(std::filesystem::absolute(folder, failure), failure);
  if (failure) return fail(errc::not_found, fmt::format("{}: {}", printable(folder.string()), failure.message()));
  return absolute.string();
}

result<exit_code> now(const session& s, const refresh_request& request) {
  if (!request.layer.empty() && !parse_layer(request.layer)) {
    print_error(fmt::format("'{}' is not a layer; write its number, or encoder.3", printable(request.layer)));
    return exit_code::usage;
  }
  const auto folder = folder_to_read(s, request.folder);
  if (!folder) return fail(folder.error());
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto answer = coordinator->refresh(*folder, request.layer, s.options().dry_run, request.timeout);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout);
}

struct schedule_request {
  std::string folder;
  std::chrono::milliseconds every{-1};  // not given
  std::uint64_t every_batches{};
  std::uint32_t moves_max{};
};

result<exit_code> show_schedule(const session& s) {
  auto refreshes = fetch_document(s, {query_kind::refreshes});
  if (!refreshes) return fail(refreshes.error());
  const auto schedule = refreshes->value("schedule", json());
  if (schedule.is_null()) {
    print_note("no refresh is scheduled; see: troupe refresh schedule --help");
    if (!s.prints_pages()) s.print(json::object(), {.items = "", .columns = {}, .name = ""});
    return exit_code::ok;
  }
  s.print(schedule, {.items = "",
                     .columns = {{"FROM", "from"},
                                 {"EVERY SECONDS", "every_seconds"},
                                 {"EVERY BATCHES", "every_batches", cell::count},
                                 {"MAX MOVES", "max_moves", cell::count},
                                 {"STATE", "state"},
                                 {"LAST", "last"}},
                     .name = "{from}",
                     .vertical = true});
  return exit_code::ok;
}

result<exit_code> send_schedule(const session& s, schedule_command command) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  command.dry_run = s.options().dry_run;
  const auto answer = coordinator->schedule(command);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, std::chrono::milliseconds{0});
}

result<exit_code> schedule(const session& s, const schedule_request& request) {
  const bool has_time = request.every.count() >= 0;
  if (!has_time && request.every_batches == 0) {
    if (request.moves_max == 0) return show_schedule(s);
    print_error("--max-moves needs a time: --every, --every-batches");
    return exit_code::usage;
  }
  if (has_time && request.every.count() != 0 && request.every < std::chrono::seconds{1}) {
    print_error(
        fmt::format("--every {} ms: a folder is looked into at most once a second; 0 ends it", request.every.count()));
    return exit_code::usage;
  }
  auto folder = folder_to_read(s, request.folder);
  if (!folder) return fail(folder.error());
  return send_schedule(s, {.every = has_time ? request.every : std::chrono::milliseconds{0},
                           .every_batches = request.every_batches,
                           .moves_max = request.moves_max,
                           .folder = *std::move(folder)});
}

result<exit_code> pause(const session& s) { return send_schedule(s, {.paused = true}); }

// What the schedule did, below the versions.
void print_runs(const json& refreshes) {
  if (refreshes.at("runs").empty()) return;
  std::cout << '\n'
            << render(refreshes, output_format::table,
                      {.items = "runs",
                       .columns = {{"SCHEDULED AT", "time"},
                                   {"AFTER", "because"},
                                   {"MOVES", "moves", cell::count},
                                   {"OPERATION", "operation"},
                                   {"COLD", "cold_experts", cell::count},
                                   {"STALE", "stale_experts", cell::count},
                                   {"NEWER WEIGHTS", "refresh"}},
                       .name = ""})
            << std::flush;
}

result<exit_code> history(const session& s) {
  const auto refreshes = fetch_document(s, {query_kind::refreshes});
  if (!refreshes) return fail(refreshes.error());
  s.print(*refreshes, {.items = "items",
                       .columns = {{"VERSION", "version", cell::count},
                                   {"FROM", "from"},
                                   {"STATE", "state"},
                                   {"EXPERTS", "experts", cell::count},
                                   {"SERVING", "serving", cell::count},
                                   {"OPERATION", "operation"},
                                   {"SINCE", "since"},
                                   {"WHO", "who", cell::text, true}},
                       .name = "{version}"});
  if (s.prints_pages()) print_runs(*refreshes);
  return exit_code::ok;
}

}  // namespace

void add_refresh_verbs(verb_registry& verbs) {
  auto request = std::make_shared<refresh_request>();
  auto& noun = verbs.noun("refresh", "Other weights for experts, while they serve.");
  auto& refreshing = verbs.verb(noun, "now", "Serve the experts of another checkpoint folder, layer by layer.",
                                "  troupe refresh now --from /models/next --dry-run\n"
                                "  troupe refresh now --from /models/next\n"
                                "  troupe refresh now --from /models/next --layer 3",
                                [request](const session& s) { return now(s, *request); });
  refreshing
      .add_option("--from", request->folder,
                  "a folder that differs in experts' weights only, readable for the coordinator and the expert nodes "
                  "[the model's own, as it is now]")
      ->type_name("DIR");
  refreshing.add_option("--layer", request->layer, "only the experts of this MoE layer [all]")->type_name("LAYER");
  add_duration(refreshing, "--timeout", request->timeout, "how long to wait [30m]");
  auto timing = std::make_shared<schedule_request>();
  auto& scheduling =
      verbs.verb(noun, "schedule", "Look for other weights again and again; without options: what is scheduled.",
                 "  troupe refresh schedule --every 6h --from /models/next\n"
                 "  troupe refresh schedule --every-batches 100000 --max-moves 16\n"
                 "  troupe refresh schedule --every 0\n"
                 "  troupe refresh schedule -o json",
                 [timing](const session& s) { return schedule(s, *timing); });
  add_duration(scheduling, "--every", timing->every, "how often, from 1s on; 0: no longer");
  scheduling
      .add_option("--every-batches", timing->every_batches,
                  "also when so many batches went through the busiest layer [0: does not matter]")
      ->check(CLI::NonNegativeNumber);
  scheduling
      .add_option("--max-moves", timing->moves_max,
                  "replicas that change places each time, in the most uneven layers [0]")
      ->check(CLI::Range(0U, limits::scheduled_moves_max));
  scheduling.add_option("--from", timing->folder, "as for refresh now [the model's own folder]")->type_name("DIR");
  verbs.verb(noun, "pause", "Do not do what is scheduled until it is scheduled again.", "  troupe refresh pause",
             &pause);
  verbs.verb(noun, "history",
             "The versions that refreshes brought, how many experts serve each, and what the schedule did.",
             "  troupe refresh history\n  troupe refresh history -o json", &history);
}

}  // namespace troupe::cli
