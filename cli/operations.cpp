#include "cli/operations.hpp"

#include <fmt/format.h>

#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds look_interval{50};

result<exit_code> outcome_of(const session& s, const json& operation, bool cancelled_is_good) {
  const std::string state = operation.at("state");
  s.print(operation, operation_view(true));
  if (state == "done" || (state == "cancelled" && cancelled_is_good)) return exit_code::ok;
  return fail(errc::conflict,
              fmt::format("{} of {} is {}: {}; see troupe op show {}", operation.at("kind").get<std::string>(),
                          operation.at("object").get<std::string>(), state, operation.at("reason").get<std::string>(),
                          operation.at("id").get<std::string>()));
}

}  // namespace

view operation_view(bool one) {
  return {.items = one ? "" : "items",
          .columns = {{"ID", "id"},
                      {"KIND", "kind"},
                      {"OBJECT", "object"},
                      {"STATE", "state"},
                      {"STEP", "step"},
                      {"PROGRESS", "progress", cell::share},
                      {"SINCE", "since"},
                      {"WHO", "who", cell::text, !one},
                      {"WHY", "why", cell::text, !one},
                      {"TO", "to", cell::text, !one},
                      {"WAITS FOR", "waits_for", cell::text, !one},
                      {"REASON", "reason"}},
          .name = "{id}",
          .vertical = one};
}

result<json> find_operation(admin_client& coordinator, const std::string& id) {
  auto all = coordinator.ask({query_kind::operations});
  if (!all) return all;
  for (auto& operation : all->at("items")) {
    if (operation.at("id") == id) return std::move(operation);
  }
  return fail(errc::not_found, fmt::format("no operation {}; see: troupe op list", printable(id)));
}

result<exit_code> wait_for_operation(const session& s, admin_client& coordinator, const std::string& id,
                                     std::chrono::milliseconds timeout, bool cancelled_is_good) {
  install_interrupt_handler();
  const auto deadline = clock::now() + timeout;
  progress shown{std::cerr, id, stderr_is_terminal(), clock::now()};
  while (true) {
    const auto operation = find_operation(coordinator, id);
    if (!operation) return fail(operation.error());
    if (operation->at("state") != "running") return outcome_of(s, *operation, cancelled_is_good);
    shown.update(static_cast<std::uint64_t>(operation->at("progress").get<double>() * 100), 100, clock::now());
    if (clock::now() >= deadline) {
      return fail(errc::timeout,
                  fmt::format("{} is not done after {} s, it is at step {}; it goes on in the cluster: see troupe op "
                              "show {}",
                              id, timeout.count() / 1000, operation->at("step").get<std::string>(), id));
    }
    if (wait_for_interrupt(look_interval)) {
      print_note(fmt::format("{} goes on in the cluster; see: troupe op show {}", id, id));
      return exit_code::interrupted;
    }
  }
}

result<exit_code> finish_operation(const session& s, admin_client& coordinator, const json& answer,
                                   std::chrono::milliseconds timeout, bool cancelled_is_good) {
  const std::string id = answer.value("operation", "");
  if (!s.options().dry_run && !s.options().no_wait && !id.empty())
    return wait_for_operation(s, coordinator, id, timeout, cancelled_is_good);
  s.print(answer, {.items = "",
                   .columns = {{"RESULT", "message"}, {"OPERATION", "operation"}, {"STATE", "state"}},
                   .name = "{operation}",
                   .vertical = true});
  return exit_code::ok;
}

}  // namespace troupe::cli
