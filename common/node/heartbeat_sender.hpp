// Heartbeats to the coordinator, on a socket and a thread of their own: neither data nor control can hold them up.
// Part of coordinator_link.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/missed_heartbeats.hpp"
#include "common/node/coordinator_link.hpp"
#include "common/wire/socket.hpp"

namespace troupe::node {

class heartbeat_sender {
 public:
  using clock = std::chrono::steady_clock;

  struct identity {
    std::string cluster_id;
    node_id node;
    incarnation_number incarnation;
  };

  // `on_news` is called on the heartbeat thread when there is something for take_news(); it must not block.
  [[nodiscard]] static result<std::unique_ptr<heartbeat_sender>> start(std::shared_ptr<wire::context> ctx,
                                                                       std::string address,
                                                                       wire::socket_options options,
                                                                       std::function<void()> on_news);
  ~heartbeat_sender();
  heartbeat_sender(const heartbeat_sender&) = delete;
  heartbeat_sender& operator=(const heartbeat_sender&) = delete;

  // All for any thread. Between begin and end heartbeats are sent as `who`; a new connection is made for each session,
  // so that no answer to an old one is taken for one to the new.
  void begin_session(identity who);
  void end_session();
  void set_epoch(epoch_number epoch) { epoch_.store(epoch.value); }

  // When the coordinator was last heard in this session (its beginning counts).
  [[nodiscard]] clock::time_point last_heard() const;
  [[nodiscard]] heartbeat_totals totals() const;
  // Has the coordinator said that it does not know this incarnation? Says so once.
  [[nodiscard]] bool take_join_again();

 private:
  heartbeat_sender(std::shared_ptr<wire::context> ctx, std::string address, wire::socket_options options,
                   std::function<void()> on_news, wire::wake_signal wake);
  void run();
  void serve(const identity& who, std::uint64_t generation);
  void read_answers(wire::socket& from, const identity& who, std::uint64_t generation);
  void count_missed(clock::time_point now);
  [[nodiscard]] std::uint64_t generation() const;

  // constant
  const std::shared_ptr<wire::context> context_;
  const std::string address_;
  const wire::socket_options options_;
  const std::function<void()> on_news_;
  const wire::wake_signal wake_;
  // any thread
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> epoch_{0};
  // guarded by mutex_
  mutable std::mutex mutex_;
  std::optional<identity> session_;
  std::uint64_t generation_{};
  clock::time_point last_heard_{};
  bool join_again_{};
  heartbeat_totals totals_;
  // heartbeat thread
  std::uint64_t sequence_{};
  clock::time_point sent_{};  // the newest one
  missed_heartbeats missed_;
  std::thread thread_;
};

}  // namespace troupe::node
