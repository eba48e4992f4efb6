// One connection to one router, made once: when it breaks, it is thrown away and the session opens another. libzmq's
// own reconnecting is off, since it would hide that a request was lost with its connection. One thread at a time.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <variant>

#include "client/cpp/target.hpp"
#include "common/error.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"

namespace troupe::client {

// The connection broke or was not made.
struct link_lost {
  std::string reason;
  bool refused{};  // the router does not take this key: trying again would be in vain
};
struct link_silent {};  // nothing came until the deadline

using link_news = std::variant<wire::incoming_message, link_lost, link_silent>;

class router_link {
 public:
  // Returns at once. invalid_request: no such address.
  [[nodiscard]] static result<std::unique_ptr<router_link>> open(std::shared_ptr<wire::context> ctx,
                                                                 const router_address& router);

  // Does not wait; what is sent before the connection stands goes out with it.
  result<void> send(wire::outgoing_message& message, const google::protobuf::MessageLite& envelope);
  // The next message; messages that came before a loss are told before it. A damaged message counts as a loss.
  [[nodiscard]] link_news next(std::chrono::steady_clock::time_point deadline);
  [[nodiscard]] const std::string& address() const { return address_; }

 private:
  router_link(std::string address, wire::socket socket, wire::link_monitor monitor);
  std::string address_;
  wire::socket socket_;
  wire::link_monitor monitor_;
  wire::poller poller_;
};

}  // namespace troupe::client
