// An expert host on a real ipc socket that computes something simple and misbehaves on demand.
//
// Its expert e of any layer multiplies a row by (e + 1): small integers, so that sums are exact in f32.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/ids.hpp"
#include "common/tensor.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/shared_memory.hpp"
#include "common/wire/socket.hpp"
#include "proto/router_expert.pb.h"

namespace troupe::router::testing {

enum class manner : int {
  honest,
  silent,       // takes calls and says nothing until it is honest again; then answers them all, late
  refusing,     // overloaded
  not_holding,  // holds none of the experts
  doubling,     // every answer twice, and one to a call that was never made
  lying,        // an answer of the wrong shape
};

class fake_host {
 public:
  fake_host(std::shared_ptr<wire::context> context, const std::filesystem::path& folder, std::string name,
            std::uint64_t incarnation = 1, bool maps_memory = true);
  // As killed: the socket is closed, nothing is said.
  ~fake_host();
  fake_host(const fake_host&) = delete;
  fake_host& operator=(const fake_host&) = delete;

  void behave(manner how);
  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::uint64_t incarnation() const { return incarnation_; }
  [[nodiscard]] std::uint64_t calls_received() const { return calls_; }
  [[nodiscard]] std::uint64_t shared_calls() const { return shared_calls_; }
  [[nodiscard]] std::uint64_t answers_sent() const { return answers_; }

 private:
  struct waiting_call {
    std::string routing_id;
    proto::RunExperts run;
    std::shared_ptr<wire::incoming_message> message;
  };

  void serve();
  void handle(wire::received got);
  void on_hello(const std::string& routing_id, const proto::Hello& hello);
  void answer(const waiting_call& call);
  // Computes once and sends that once per attempt.
  void send_done(const waiting_call& call, std::initializer_list<std::uint32_t> attempts);
  [[nodiscard]] std::vector<std::byte> compute(const waiting_call& call) const;
  [[nodiscard]] tensor_view view(const waiting_call& call, const proto::Tensor& tensor) const;

  std::string name_;
  std::uint64_t incarnation_;
  bool maps_memory_;
  wire::socket socket_;
  std::string address_;
  wire::wake_signal wake_;
  std::unique_ptr<wire::shared_segment> segment_;
  std::vector<waiting_call> silent_;
  std::atomic<manner> manner_{manner::honest};
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> calls_{0};
  std::atomic<std::uint64_t> shared_calls_{0};
  std::atomic<std::uint64_t> answers_{0};
  std::thread thread_;
};

}  // namespace troupe::router::testing
