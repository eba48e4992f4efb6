// The coordinator's doors: the control socket (expert nodes and routers) and the admin socket, both on one thread.
//
// Every connection says hello first: wire version and cluster are checked, over TCP also that the key's role and name
// fit. What gets through is handed on as events, commands and questions; answers come back through the functions of
// coordinator_ports, which only put them into a queue. On ipc the socket folder's mode is the guard.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/error.hpp"
#include "common/wire/socket.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/shell/actors.hpp"
#include "coordinator/shell/ports.hpp"

namespace troupe::coordinator {

struct control_server_options {
  std::string control_address;
  std::string admin_address;
  wire::socket_options control_socket;
  wire::socket_options admin_socket;
  std::string cluster_id;
  std::string name;
  std::uint64_t incarnation{};
  // On the server's thread.
  std::function<void(event)> on_event;
  std::function<void(ask)> on_question;
};

class control_server {
 public:
  // Opens both doors; nothing is read before start(). conflict when an address is in use (faults.md N12).
  [[nodiscard]] static result<std::unique_ptr<control_server>> bind(std::shared_ptr<wire::context> ctx,
                                                                    control_server_options options);
  // Once.
  void start();
  ~control_server();
  control_server(const control_server&) = delete;
  control_server& operator=(const control_server&) = delete;

  // Any thread; they return at once.
  void send(const node_message& message);
  void publish(const publication& what);
  void reply(const admin_reply& answer);
  void answer(const query_origin& to, const result<std::string>& json);

  // Messages that could not be used, since start.
  [[nodiscard]] std::uint64_t refused_messages() const;

 private:
  class loop;
  explicit control_server(std::unique_ptr<loop> l);
  std::unique_ptr<loop> loop_;
};

}  // namespace troupe::coordinator
