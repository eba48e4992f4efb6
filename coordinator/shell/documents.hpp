// The JSON documents that operators, clients and scripts see (docs/wire-admin.md, docs/cli.md): stable names.
// Pure functions over what the core knows; called on the actor's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/error.hpp"
#include "coordinator/core/cluster_state.hpp"
#include "coordinator/shell/event_log.hpp"

namespace troupe::coordinator {

// What the core does not know: the process it runs in, the model's name, the calendar.
struct document_context {
  std::string name;  // of the coordinator's own node
  std::string address;
  std::uint64_t pid{};
  std::uint64_t incarnation{};
  std::string model_name;
  std::string model_family;
  std::chrono::system_clock::time_point wall_clock;  // at the moment of state.now
};

[[nodiscard]] std::string_view cluster_state_name(const cluster_state& state);  // starting, serving, degraded, stopped
[[nodiscard]] std::uint32_t unroutable_experts(const cluster_state& state);
[[nodiscard]] std::uint32_t operations_running(const cluster_state& state);

[[nodiscard]] std::string status_document(const cluster_state& state, const document_context& context);
// `only`: this node alone; not_found when there is none. Empty: all.
[[nodiscard]] result<std::string> nodes_document(const cluster_state& state, const document_context& context,
                                                 std::string_view only);
// `layer`: "3", "encoder.1"; empty: all. not_found names the layers that there are.
[[nodiscard]] result<std::string> experts_document(const cluster_state& state, const document_context& context,
                                                   std::string_view layer);
// The newest last, ended ones too.
[[nodiscard]] std::string operations_document(const cluster_state& state);
// Each version that a refresh brought, the newest last.
[[nodiscard]] std::string refreshes_document(const cluster_state& state);
[[nodiscard]] std::string events_document(const event_log& events, std::uint64_t after);

}  // namespace troupe::coordinator
