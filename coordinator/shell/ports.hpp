// What the coordinator actor needs from the world outside its process: one interface, so that its tests use a fake.
// All functions are called on the actor's thread; none may block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

// Where the answer to a question goes.
struct query_origin {
  bool from_admin{};         // else from a router, on the control socket
  std::string peer;          // routing id
  std::string command_id;    // admin
  std::uint64_t query_id{};  // router
};

// Who the heartbeat thread takes for a member, and what it tells them.
struct member_view {
  term_number term;
  epoch_number epoch;
  std::vector<std::pair<node_id, incarnation_number>> members;
  friend bool operator==(const member_view&, const member_view&) = default;
};

class coordinator_ports {
 public:
  virtual ~coordinator_ports() = default;
  virtual void send(node_message message) = 0;
  virtual void publish(publication what) = 0;
  virtual void reply(admin_reply answer) = 0;
  virtual void answer(const query_origin& to, result<std::string> json) = 0;
  virtual void set_members(member_view view) = 0;
  virtual void log(const operator_event& what) = 0;
};

}  // namespace troupe::coordinator
