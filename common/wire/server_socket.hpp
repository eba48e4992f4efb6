// What every server thread begins with: a ROUTER socket at its address, and the signal that interrupts its wait.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "common/wire/socket.hpp"

namespace troupe::wire {

struct server_socket {
  socket requests;
  std::string address;  // where it is bound: with the port that was picked
  wake_signal wake;

  // Errors as of socket::open, socket::bind and wake_signal::make.
  [[nodiscard]] static result<server_socket> bind(std::shared_ptr<context> ctx, const socket_options& options,
                                                  std::string_view endpoint);
};

}  // namespace troupe::wire
