#include "common/wire/server_socket.hpp"

#include <utility>

namespace troupe::wire {

result<server_socket> server_socket::bind(std::shared_ptr<context> ctx, const socket_options& options,
                                          std::string_view endpoint) {
  auto requests = socket::open(std::move(ctx), socket_kind::router, options);
  if (!requests) return fail(std::move(requests.error()));
  auto address = requests->bind(endpoint);
  if (!address) return fail(std::move(address.error()));
  auto wake = wake_signal::make();
  if (!wake) return fail(std::move(wake.error()));
  return server_socket{std::move(*requests), std::move(*address), std::move(*wake)};
}

}  // namespace troupe::wire
