// The thread that talks to routers: says hello, checks every call completely, hands it to the expert host, and sends
// the answers back. It moves frames and copies no rows; the host computes.
//
// Bounds: a call_ledger counts what is with the host and refuses at once what is too much. A router that stops reading
// keeps its answers waiting here until their deadline, still counted in the ledger.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/http/metrics.hpp"
#include "common/wire/socket.hpp"
#include "expert_node/core/call_ledger.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

class layer_catalog;
class node_identity;

struct data_server_settings {
  std::shared_ptr<wire::context> context;
  std::string address;          // to bind
  wire::socket_options socket;  // CURVE on TCP
  std::shared_ptr<const node_identity> identity;
  std::shared_ptr<const layer_catalog> layers;
  std::function<void(call_handle)> submit;  // to the host; called on the server's thread, must not block
  bool reject_nonfinite{};
  ledger_limits bounds;
};

// One writer, the server's thread; any reader.
struct data_server_counters {
  http::counter calls_received;
  http::counter calls_invalid;      // malformed in any way
  http::counter calls_overloaded;   // refused at the bound
  http::counter calls_repeated;     // (request, attempt) seen before
  http::counter calls_expired;      // no time left on arrival
  http::counter messages_rejected;  // not even a message, or before the handshake
  http::counter answers_sent;
  http::counter answers_dropped;  // the router is gone, has a new link, or does not read
  http::counter bytes_received;   // tensors, in either place
  http::counter bytes_sent;
  http::gauge rows_in_flight;
  http::gauge routers;
};

class data_server {
 public:
  // Binds and starts the thread. conflict, invalid_request: about the address.
  [[nodiscard]] static result<std::unique_ptr<data_server>> start(data_server_settings settings);
  // As stop(0).
  ~data_server();
  data_server(const data_server&) = delete;
  data_server& operator=(const data_server&) = delete;

  [[nodiscard]] const std::string& address() const;
  [[nodiscard]] const data_server_counters& counters() const;

  // Any thread: the host has set the call's outcome.
  void answer(call_handle call);
  // Any thread: forgets routers that the map does not know any more.
  void use_map(std::shared_ptr<const cluster_map> map);
  // Any thread: refuses new calls, waits until all others are answered or the time is over. False: some were not.
  [[nodiscard]] bool drain(std::chrono::milliseconds grace);
  void stop();

 private:
  class impl;
  explicit data_server(std::unique_ptr<impl> i);
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::expert
