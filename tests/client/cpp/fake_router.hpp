// A router for tests: a ROUTER socket on a thread of its own that welcomes clients and hands everything else to a
// behaviour; by default it answers output = 2 * hidden.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"
#include "proto/client_router.pb.h"

namespace troupe::client::testing {

class fake_router;

// Of a request: who asked what, with the bytes of its tensors.
struct request {
  std::string peer;
  proto::ClientToRouter envelope;
  std::vector<std::vector<std::byte>> tensors;
  wire::checksum_kind kind{};
};

using behaviour = std::function<void(fake_router&, const request&)>;

// output = scale * hidden (f32), routed_output = hidden, two experts per row, epoch 7.
void answer_layer(fake_router& router, const request& asked, float scale);
void answer_double(fake_router& router, const request& asked);
void answer_failure(fake_router& router, const request& asked, proto::ErrorCode code, const std::string& message);

class fake_router {
 public:
  explicit fake_router(std::string address, behaviour act = answer_double);
  // Breaks all connections at once, as a killed process would.
  ~fake_router();

  // For behaviours, on the router's thread.
  void send(const std::string& peer, wire::outgoing_message message, const proto::RouterToClient& envelope);
  void forget_peers() { forget_ = true; }

  // For tests, any thread.
  [[nodiscard]] std::vector<proto::ClientToRouter> seen() const;
  [[nodiscard]] int hellos() const { return hellos_; }
  // False when the condition did not hold within 10 seconds.
  [[nodiscard]] bool wait_until(const std::function<bool()>& condition) const;

  proto::Welcome welcome;  // to be set before clients connect

 private:
  void run();
  void serve(wire::received got);
  void greet(const std::string& peer);

  behaviour act_;
  wire::socket socket_;
  wire::wake_signal stop_;
  std::set<std::string> greeted_;  // the router's thread only
  std::atomic<bool> stopping_{false};
  std::atomic<bool> forget_{false};
  std::atomic<int> hellos_{0};
  mutable std::mutex mutex_;
  std::vector<proto::ClientToRouter> seen_;  // protected by mutex_
  std::thread thread_;                       // last: it uses all of the above
};

}  // namespace troupe::client::testing
