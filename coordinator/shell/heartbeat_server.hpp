// Answers heartbeats on a socket and a thread of its own, whatever the actor and the disk are doing, and passes them
// on. A node that is no member is told to join again.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/error.hpp"
#include "common/wire/socket.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/shell/ports.hpp"

namespace troupe::coordinator {

struct heartbeat_server_options {
  std::string address;
  wire::socket_options socket;
  std::string cluster_id;
  std::function<void(heartbeat)> on_heartbeat;  // on the server's thread
};

class heartbeat_server {
 public:
  // Opens the door; nothing is read before start(). conflict when the address is in use (faults.md N12).
  [[nodiscard]] static result<std::unique_ptr<heartbeat_server>> bind(std::shared_ptr<wire::context> ctx,
                                                                      heartbeat_server_options options);
  // Once.
  void start();
  ~heartbeat_server();
  heartbeat_server(const heartbeat_server&) = delete;
  heartbeat_server& operator=(const heartbeat_server&) = delete;

  // Any thread.
  void set_members(member_view view);

 private:
  struct state;
  explicit heartbeat_server(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::coordinator
