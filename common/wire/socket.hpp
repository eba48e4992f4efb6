// ZeroMQ sockets with the project's settings: message and queue limits, heartbeats, reconnects, CURVE. The names of the
// settings and why they are what they are: docs/wire-framing.md.
//
// A context may be shared by all threads; a socket, a poller and a link_monitor belong to one thread at a time
// (handing one over needs a fence, such as starting the thread). Only wake_signal::wake is called from other threads.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/error.hpp"

namespace troupe::wire {

// Result of a libzmq call: `rc` != -1, or internal with the call's name and libzmq's text.
[[nodiscard]] result<void> zmq_check(int rc, std::string_view call);

class context {
 public:
  // internal when libzmq cannot start, or lacks CURVE.
  [[nodiscard]] static result<std::shared_ptr<context>> make(int io_threads = 1);
  explicit context(void* handle) : handle_(handle) {}
  // Waits until the messages of closed sockets have left, at most limits::linger. @pre all its sockets are closed.
  ~context();
  context(const context&) = delete;
  context& operator=(const context&) = delete;
  [[nodiscard]] void* handle() const { return handle_; }

 private:
  void* handle_;
};

enum class socket_kind : std::uint8_t { router, dealer, pair, rep };

// CURVE keys as Z85 text of 40 characters.
struct curve_server {
  std::string secret_key;
  std::string zap_domain;  // the ZAP handler allows the roles of this domain (keys.hpp); never empty
};
struct curve_client {
  std::string server_key;  // public key of the side that binds
  std::string public_key;
  std::string secret_key;
};

struct socket_options {
  std::string routing_id;              // DEALER: what a ROUTER answers to; empty: libzmq makes one per connection
  std::optional<curve_server> server;  // for sockets that bind a TCP port
  std::optional<curve_client> client;  // for sockets that connect to one
};

class socket {
 public:
  [[nodiscard]] static result<socket> open(std::shared_ptr<context> ctx, socket_kind kind,
                                           const socket_options& options = {});
  socket(socket&& other) noexcept;
  socket& operator=(socket&& other) noexcept;
  ~socket();

  // `endpoint` is "ipc:///path", "tcp://host:port" or "inproc://name"; port 0 picks a free one. Returns where it is
  // bound. An ipc file is made 0600; one that a dead process left behind is replaced, one of a living process is not.
  // It is removed with the socket (libzmq leaves it), unless somebody has put another one in its place.
  // conflict: the address is in use. invalid_request: no such address, or an ipc path above 107 bytes.
  [[nodiscard]] result<std::string> bind(std::string_view endpoint);
  // Returns at once; the connection is made, and made again, in the background.
  result<void> connect(std::string_view endpoint);
  result<void> disconnect(std::string_view endpoint);

  [[nodiscard]] socket_kind kind() const { return kind_; }
  [[nodiscard]] const std::shared_ptr<context>& shared_context() const { return context_; }
  // For libzmq calls; nullptr once moved from.
  [[nodiscard]] void* handle() const { return handle_; }

  // A socket's descriptor tells of a message only until the socket is used in any way, by sending for one. So who uses
  // the handle says so, and a poller then asks the socket itself, which takes a system call more.
  void note_use() const { may_have_messages_ = true; }
  // A receive has just found none.
  void note_empty() const { may_have_messages_ = false; }
  [[nodiscard]] bool may_have_messages() const { return may_have_messages_; }

 private:
  struct ipc_file {
    std::string path;
    std::uint64_t device{};
    std::uint64_t inode{};
  };
  socket(std::shared_ptr<context> ctx, void* handle, socket_kind kind);
  [[nodiscard]] result<void> guard_ipc_file(const std::string& path);
  std::shared_ptr<context> context_;
  void* handle_{};
  socket_kind kind_{socket_kind::dealer};
  mutable bool may_have_messages_{true};
  std::vector<ipc_file> ipc_files_;
};

// Waits until the socket would take a message: on a DEALER, until its connection stands. False after `timeout` (rounded
// up to ms).
[[nodiscard]] bool wait_writable(const socket& s, std::chrono::nanoseconds timeout);

// Lets any thread interrupt a poller's wait.
class wake_signal {
 public:
  [[nodiscard]] static result<wake_signal> make();
  wake_signal(wake_signal&& other) noexcept;
  wake_signal& operator=(wake_signal&& other) noexcept;
  ~wake_signal();
  // Any thread, any number of times; they count as one until clear().
  void wake() const;
  // Called by the polling thread before it looks at what it was woken for.
  void clear() const;
  [[nodiscard]] int descriptor() const { return descriptor_; }

 private:
  explicit wake_signal(int descriptor) : descriptor_(descriptor) {}
  int descriptor_{-1};
};

// Waits for sockets and descriptors. What is added must outlive its place here.
class poller {
 public:
  poller();
  ~poller();
  poller(poller&&) noexcept;
  poller& operator=(poller&&) noexcept;
  // The number under which readable() knows it. clear() invalidates all numbers.
  std::size_t add(const socket& s);
  std::size_t add(const wake_signal& signal);
  std::size_t add_descriptor(int descriptor);
  void clear();
  // Returns how many are readable; 0 after `timeout` (rounded up to ms) or an interrupting signal. After a wake-up,
  // read a socket until receive() says nullopt.
  std::size_t wait(std::chrono::nanoseconds timeout);
  [[nodiscard]] bool readable(std::size_t number) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

enum class link_event_kind : std::uint8_t {
  connected,         // the transport stands; CURVE may still refuse
  ready,             // the ZMTP handshake is done: messages flow
  disconnected,      // the peer is gone (a killed process is noticed at once, a lost machine by heartbeats)
  connect_failed,    // a connection attempt failed; libzmq goes on trying
  refused,           // the handshake failed for good: wrong key or role
  handshake_failed,  // the peer spoke no ZMTP, or did not finish in time
};

struct link_event {
  link_event_kind kind{};
  std::string endpoint;
  std::uint32_t value{};  // libzmq's detail: ZAP status, errno, descriptor
};

// What happens to the connections of one socket, as events that its thread can poll beside its messages.
class link_monitor {
 public:
  // Watches from now on. @pre the socket outlives the monitor and has no other.
  [[nodiscard]] static result<link_monitor> watch(socket& target);
  link_monitor(link_monitor&&) noexcept = default;
  link_monitor& operator=(link_monitor&&) = delete;
  ~link_monitor();
  // For poller::add.
  [[nodiscard]] const socket& events() const { return events_; }
  // nullopt when there is none waiting.
  [[nodiscard]] std::optional<link_event> next();

 private:
  link_monitor(void* target, socket events) : target_(target), events_(std::move(events)) {}
  void* target_{};
  socket events_;
};

}  // namespace troupe::wire
