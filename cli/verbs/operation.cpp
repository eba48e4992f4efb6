// troupe op list, show, watch and cancel.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/operations.hpp"

namespace troupe::cli {
namespace {

struct operation_request {
  std::string id;
  std::chrono::milliseconds timeout{std::chrono::minutes{10}};
};

result<exit_code> list(const session& s) {
  const auto operations = fetch_document(s, {query_kind::operations});
  if (!operations) return fail(operations.error());
  s.print(*operations, operation_view(false));
  return exit_code::ok;
}

result<exit_code> show(const session& s, const operation_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto operation = find_operation(*coordinator, request.id);
  if (!operation) return fail(operation.error());
  s.print(*operation, operation_view(true));
  return exit_code::ok;
}

result<exit_code> watch(const session& s, const operation_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  return wait_for_operation(s, *coordinator, request.id, request.timeout, true);
}

result<exit_code> cancel(const session& s, const operation_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto answer = coordinator->cancel(request.id, s.options().dry_run);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout, true);
}

}  // namespace

void add_operation_verbs(verb_registry& verbs) {
  auto request = std::make_shared<operation_request>();
  auto& noun = verbs.noun("op", "Operations: what goes on in the background, and what has ended.");
  verbs.verb(noun, "list", "All operations, the newest last.", "  troupe op list\n  troupe op list -o json", &list);
  const auto on_one = [&](const std::string& name, const std::string& help, const std::string& examples,
                          result<exit_code> (*action)(const session&, const operation_request&)) -> CLI::App& {
    auto& verb =
        verbs.verb(noun, name, help, examples, [request, action](const session& s) { return action(s, *request); });
    verb.add_option("id", request->id, "op-N")->required()->type_name("ID");
    return verb;
  };
  on_one("show", "One operation.", "  troupe op show op-3 -o json", &show);
  auto& watching = on_one("watch", "Wait until an operation has ended.", "  troupe op watch op-3", &watch);
  add_duration(watching, "--timeout", request->timeout, "how long to wait [10m]");
  auto& cancelling = on_one("cancel", "Go back to what was before the operation.", "  troupe op cancel op-3", &cancel);
  add_duration(cancelling, "--timeout", request->timeout, "how long to wait [10m]");
}

}  // namespace troupe::cli
