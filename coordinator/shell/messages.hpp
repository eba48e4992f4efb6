// Between Protobuf messages and the core's plain values. Pure functions, any thread.
#pragma once

#include <optional>
#include <string>

#include "common/error.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/core/output.hpp"

namespace troupe::proto {
class AdminReply;
class AdminRequest;
class CoordinatorToNode;
class Error;
class Hello;
class NodeToCoordinator;
class Welcome;
}  // namespace troupe::proto

namespace troupe::coordinator {

// nullopt: a message that is no event (hello, query, an empty one). invalid_request with the field's path.
[[nodiscard]] result<std::optional<event>> event_from(const proto::NodeToCoordinator& message, std::string peer);
[[nodiscard]] result<std::optional<admin_command>> command_from(const proto::AdminRequest& message, std::string peer);

void to_proto(const node_message& message, proto::CoordinatorToNode& target);
void to_proto(const error& failure, proto::Error& target);

// wrong_version (faults.md W11), wrong_cluster (P11: "X belongs to cluster A, this is B").
[[nodiscard]] result<void> check_hello(const proto::Hello& hello, const std::string& cluster_id);
void fill_welcome(const std::string& cluster_id, const std::string& name, std::uint64_t incarnation,
                  proto::Welcome& target);

}  // namespace troupe::coordinator
