// The connection to one expert host: handshake, shared memory, calls out, answers in.
//
//            start                ready (ZMTP)            Welcome
//   paused ─────────> connecting ─────────────> greeting ─────────> ready
//     ^                    │ no answer in time      │ refused            │ connection lost, host restarted,
//     └────────────────────┴────────────────────────┴────────────────────┘ answer overdue: a pause, then a new socket
//
// A connection is never used twice: a new one has a new socket and a new segment, so that a host that wakes up late can
// only write into memory that nobody reads. In the segment the router alone allocates: a call's range is free again
// when its answer has been combined; if the call was given up, when the late answer comes or the link is made anew.
//
// Thread rule: the router's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/tensor.hpp"
#include "common/wire/keys.hpp"
#include "common/wire/range_pool.hpp"
#include "common/wire/shared_memory.hpp"
#include "common/wire/socket.hpp"
#include "router_node/core/host_table.hpp"
#include "router_node/core/types.hpp"

namespace troupe::proto {
class ExpertsDone;
class RouterToExpert;
class Welcome;
}  // namespace troupe::proto

namespace troupe::wire {
class incoming_message;
}

namespace troupe::router {

// What all links of a router share. Outlives them.
struct link_environment {
  std::shared_ptr<wire::context> context;
  node_id self;
  std::function<incarnation_number()> incarnation;  // of this router
  std::function<std::string()> cluster_id;          // empty: not known yet
  std::optional<wire::key_pair> keys;               // for TCP
  std::uint64_t segment_bytes{};                    // of shared memory per link; 0: none
};

// What a link tells its owner. Calls come from inside handle() and tick().
class link_listener {
 public:
  virtual ~link_listener() = default;
  virtual void on_link(const node_id& host, link_state state) = 0;
  virtual void on_call_answer(call_answer answer) = 0;
  // A message that could not be used. For counters and the log.
  virtual void on_bad_message(const node_id& host, const error& reason) = 0;
};

// The rows of a request in the wire dtype.
struct row_source {
  const std::byte* matrix{};  // [T, H]
  std::uint32_t hidden{};
  dtype type{dtype::f32};
};

struct link_traffic {
  std::uint64_t bytes_out{};
  std::uint64_t bytes_in{};
  std::uint64_t shared_calls{};  // through shared memory; the others went as parts
  std::uint64_t reconnects{};
};

class expert_link {
 public:
  expert_link(const link_environment& environment, link_listener& owner, const map_node& node);
  ~expert_link();
  expert_link(const expert_link&) = delete;
  expert_link& operator=(const expert_link&) = delete;

  void start(time_point now);
  // The map has (new) words about this host: another address or a newer incarnation makes the link anew.
  void use(const map_node& node, time_point now);

  // unavailable: not ready; overloaded: the host does not read; too_large: above what it accepts.
  [[nodiscard]] result<void> send(const outgoing_call& call, const row_source& rows, time_point now);

  // Registers the sockets; handle() reads those that this poller says are readable.
  void add_to(wire::poller& poller);
  // Grows when sockets were opened or closed: the poller must be filled again.
  [[nodiscard]] std::uint64_t socket_generation() const { return socket_generation_; }
  void handle(const wire::poller& poller, time_point now);
  void tick(time_point now);
  [[nodiscard]] time_point next_tick() const { return next_tick_; }

  [[nodiscard]] const node_id& host() const { return node_.name; }
  [[nodiscard]] bool is_ready() const { return std::holds_alternative<ready>(state_); }
  [[nodiscard]] const link_traffic& traffic() const { return traffic_; }

 private:
  struct segment;
  struct connection;
  struct paused {};
  struct connecting {};
  struct greeting {};
  struct ready {
    incarnation_number incarnation;
    std::uint64_t tensor_bytes_max{};
  };
  struct sent_call {
    std::uint32_t rows{};
    std::uint32_t hidden{};
    dtype type{dtype::f32};
    std::optional<wire::memory_range> range;
    std::uint64_t output_offset{};
    time_point overdue;
  };

  void open(time_point now);
  void close(const std::string& reason, time_point now, std::chrono::milliseconds pause);
  void close_and_retry(const std::string& reason, time_point now);
  void read_messages(time_point now);
  void read_events(time_point now);
  void handle_event(const wire::link_event& event, time_point now);
  void handle_message(wire::incoming_message message, time_point now);
  void greet(time_point now);
  void on_welcome(const proto::Welcome& welcome, time_point now);
  void on_done(const proto::ExpertsDone& done, wire::incoming_message message);
  [[nodiscard]] result<partial_rows> read_output(const proto::ExpertsDone& done, const sent_call& sent,
                                                 wire::incoming_message message);
  [[nodiscard]] bool write_shared(const outgoing_call& call, const row_source& rows, proto::RouterToExpert& envelope,
                                  sent_call& sent);
  void wake_at(time_point at) { next_tick_ = at; }

  const link_environment& environment_;
  link_listener& owner_;
  map_node node_;
  std::variant<paused, connecting, greeting, ready> state_;
  std::unique_ptr<connection> connection_;
  std::map<call_id, sent_call> sent_;
  std::chrono::milliseconds pause_{};
  bool was_down_{};
  time_point next_tick_;
  std::uint64_t socket_generation_{};
  link_traffic traffic_;
};

}  // namespace troupe::router
