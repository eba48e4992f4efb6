// Internal to common/http: the handler's side of one request, which any thread may use, and of its stream.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "common/http/message.hpp"

namespace troupe::http {

class connection;
struct server_core;

// What a handler writes and the server's thread takes away and sends.
class stream_buffer {
 public:
  explicit stream_buffer(stream_head head) : head_(std::move(head)) {}

  [[nodiscard]] const stream_head& head() const { return head_; }

  enum class added : std::uint8_t { queued, wake, full, closed };
  // wake: the server's thread has to be told. full: this piece did not fit, nothing fits from now on.
  added add(std::string_view piece);
  added finish();
  // Nothing was taken or added yet, and from now on nothing will be.
  bool replace();

  struct taken {
    std::string bytes;
    bool is_last{};
  };
  taken take();
  // A ping if nothing else waits.
  void add_ping();
  void close();

 private:
  const stream_head head_;
  std::mutex mutex_;
  std::string waiting_;
  bool began_{};
  bool woken_{};
  bool finished_{};
  bool closed_{};
};

class pending_exchange : public exchange, public std::enable_shared_from_this<pending_exchange> {
 public:
  pending_exchange(std::shared_ptr<server_core> core, std::weak_ptr<connection> owner, std::uint64_t number);
  ~pending_exchange() override;

  void reply(response answer) override;
  void reply_with(std::function<response()> make) override;
  [[nodiscard]] std::shared_ptr<stream> begin_stream(stream_head head) override;
  void on_cancel(std::function<void()> on_gone) override;

  // The server's thread.
  void client_is_gone();
  // Any thread: there is nothing left to cancel.
  void end() { over_ = true; }
  // `what` with the connection, on the server's thread, as long as there is one.
  void post(std::function<void(connection&)> what);
  void post_answer(response answer);

 private:
  const std::shared_ptr<server_core> core_;
  const std::weak_ptr<connection> owner_;
  const std::uint64_t number_;
  std::atomic<bool> answered_{false};  // or a stream has begun
  std::atomic<bool> over_{false};
  std::mutex mutex_;
  std::function<void()> on_gone_;
  bool gone_{};
};

}  // namespace troupe::http
