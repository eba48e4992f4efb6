// The conversation with clients over ZeroMQ (docs/wire-client-router.md): handshake, layer requests, questions; text is
// handed to client_streams.
//
// A request that is repeated is never executed twice: while it runs its twin is told so, afterwards it gets the same
// answer from a bounded cache (faults.md W12). Errors are not kept: such a request may be tried again.
// Thread rule: the router's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/error.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/core/replay_cache.hpp"
#include "router_node/shell/client_door.hpp"
#include "router_node/shell/client_streams.hpp"
#include "router_node/shell/layer_job.hpp"
#include "router_node/shell/router_identity.hpp"

namespace troupe::proto {
class ExpertsRequest;
class GenerateRequest;
class Hello;
class InfoRequest;
class InputsRequest;
class LayerRequest;
class RouterToClient;
}  // namespace troupe::proto

namespace troupe::router {

class info_desk;
class layer_service;
class router_metrics;

class client_server final : private client_door {
 public:
  // All references are borrowed. The sockets are bound ROUTER sockets. `seed` and `wake`: as in client_streams.
  client_server(std::vector<wire::socket> sockets, const router_identity& self, const model_plan& plan,
                layer_service& service, info_desk& desk, router_metrics& metrics, std::uint64_t seed,
                std::function<void()> wake);
  ~client_server() override;

  void add_to(wire::poller& poller);
  // Reads what has arrived, but not more than a bounded number: the poller's next wait tells of the rest.
  void handle(const wire::poller& poller, time_point now);
  // From now on new requests are refused as unavailable.
  void close() { is_closed_ = true; }
  [[nodiscard]] client_streams& streams() { return streams_; }
  [[nodiscard]] time_point next_tick() const { return streams_.next_tick(); }

 private:
  using address = client_address;
  struct request_name {
    std::uint64_t number{};
    client_request key;
  };

  void handle_message(std::size_t socket, wire::received& got, time_point now);
  void on_hello(const address& to, const proto::Hello& hello);
  void on_layer(const address& to, const proto::LayerRequest& request, wire::incoming_message message, time_point now);
  void on_experts(const address& to, const proto::ExpertsRequest& request, wire::incoming_message message,
                  time_point now);
  void on_info(const address& to, const proto::InfoRequest& request, time_point now);
  // `user`: of the connection's key; empty on ipc, where the folder's mode says who may come.
  void on_inputs(const address& to, const std::string& user, const proto::InputsRequest& request);

  void on_generate(const address& to, std::string user, const proto::GenerateRequest& request, time_point now);

  // False: answered already (no handshake, closed, or malformed name).
  bool may_ask(const address& to, const request_name& name);
  // The same, and repeated requests.
  bool begin(const address& to, const request_name& name, time_point now);
  void run(const address& to, const request_name& name, result<layer_job> job, time_point now);
  void finish(const address& to, const request_name& name, layer_outcome outcome);

  void send_answer(const address& to, std::uint64_t number, const std::shared_ptr<const layer_answer>& answer);
  void send_failure(const address& to, std::uint64_t number, const error& reason) override;
  result<void> send(const address& to, const proto::RouterToClient& envelope) override;
  void send(const address& to, const proto::RouterToClient& envelope, wire::outgoing_message message);
  [[nodiscard]] bool has_said_hello(const address& to);

  std::vector<wire::socket> sockets_;
  std::vector<std::size_t> polled_;  // their numbers in the poller
  const router_identity& self_;
  const model_plan& plan_;
  layer_service& service_;
  info_desk& desk_;
  router_metrics& metrics_;
  replay_cache<layer_answer> replays_;
  // Connections that have said hello, the longest silent first.
  std::list<std::string> sessions_;
  std::unordered_map<std::string, std::list<std::string>::iterator> session_places_;
  bool is_closed_{};
  client_streams streams_;
};

}  // namespace troupe::router
