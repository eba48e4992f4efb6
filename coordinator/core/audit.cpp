#include "coordinator/core/audit.hpp"

#include <fmt/format.h>

#include "coordinator/core/expert_commands.hpp"

namespace troupe::coordinator {
namespace {

struct described {
  std::string object;
  std::string what;
};

described describe(const cluster_state& state, const admin_command& command) {
  const auto of_expert = [](const expert_id& expert, std::string_view verb, const std::string& how = "") {
    return described{to_string(expert), fmt::format("expert {} {}{}", verb, to_string(expert), how)};
  };
  const auto of_node = [](const node_id& node, std::string_view verb) {
    return described{node.value, fmt::format("node {} {}", verb, node.value)};
  };
  return std::visit(
      overloaded{
          [&](const drain_node& what) { return of_node(what.node, "drain"); },
          [&](const undrain_node& what) { return of_node(what.node, "undrain"); },
          [&](const remove_node& what) { return of_node(what.node, what.force ? "remove --force" : "remove"); },
          [&](const stop_cluster&) {
            return described{state.settings.cluster_id, "down"};
          },
          [&](const migrate_expert& what) {
            auto from = what.from ? fmt::format(" --from {}", what.from->value) : "";
            return of_expert(what.expert, "migrate", fmt::format(" --to {}{}", what.to.value, from));
          },
          [&](const replicate_expert& what) {
            return of_expert(what.expert, "replicate", fmt::format(" --count {}", what.count));
          },
          [&](const pin_expert& what) { return of_expert(what.expert, what.pinned ? "pin" : "unpin"); },
          [&](const change_presence& what) {
            return of_expert(what.expert, to_string(expert_commands::kind_of(what.what)));
          },
          [&](const refresh_weights& what) {
            auto layer = what.layer ? fmt::format(" --layer {}", to_string(*what.layer)) : "";
            return described{what.folder, fmt::format("refresh now --from {}{}", what.folder, layer)};
          },
          [&](const roll_back_placement& what) {
            return described{fmt::format("epoch {}", what.epoch.value),
                             fmt::format("placement rollback {}", what.epoch.value)};
          },
          [&](const apply_placement& what) {
            auto object = fmt::format("{} experts", what.experts.size());
            return described{object, fmt::format("placement apply: {}", object)};
          },
          [&](const schedule_refresh& what) {
            if (what.paused) return described{"refresh", "refresh pause"};
            return described{what.folder,
                             fmt::format("refresh schedule --every {}ms --every-batches {} --max-moves {} "
                                         "--from {}",
                                         what.every.count(), what.every_batches, what.moves_max, what.folder)};
          },
          [&](const cancel_operation& what) {
            return described{what.operation, fmt::format("op cancel {}", what.operation)};
          },
      },
      command.what);
}

}  // namespace

void audit(cluster_state& state, const admin_command& command, const result<command_outcome>& outcome) {
  auto [object, what] = describe(state, command);
  auto who = command.who.empty() ? "somebody" : command.who;
  auto came_to = !outcome                     ? fmt::format("refused: {}", outcome.error().message)
                 : outcome->operation.empty() ? outcome->state
                                              : fmt::format("{} ({})", outcome->state, outcome->operation);
  state.tell(outcome ? severity::info : severity::warning, "audit", std::move(object),
             fmt::format("{}: {}: {}", who, what, came_to));
}

}  // namespace troupe::coordinator
