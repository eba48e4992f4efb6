// troupe refresh now and history.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/operations.hpp"
#include "cli/terminal.hpp"
#include "common/ids.hpp"

namespace troupe::cli {
namespace {

struct refresh_request {
  std::string folder;
  std::string layer;
  std::chrono::milliseconds timeout{std::chrono::minutes{30}};
};

result<exit_code> now(const session& s, const refresh_request& request) {
  if (!request.layer.empty() && !parse_layer(request.layer)) {
    print_error(fmt::format("'{}' is not a layer; write its number, or encoder.3", printable(request.layer)));
    return exit_code::usage;
  }
  std::string folder = request.folder;
  if (folder.empty()) {
    const auto cluster = s.context();
    if (!cluster) return fail(cluster.error());
    folder = cluster->model;
  }
  std::error_code failure;
  const auto absolute = std::filesystem::weakly_canonical(folder, failure);
  if (failure) return fail(errc::not_found, fmt::format("{}: {}", printable(folder), failure.message()));
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto answer = coordinator->refresh(absolute.string(), request.layer, s.options().dry_run, request.timeout);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout);
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
  verbs.verb(noun, "history", "The versions that refreshes brought, and how many experts serve each.",
             "  troupe refresh history\n  troupe refresh history -o json", &history);
}

}  // namespace troupe::cli
