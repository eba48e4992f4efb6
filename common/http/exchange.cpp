#include "common/http/exchange.hpp"

#include <utility>

#include <boost/asio/post.hpp>

#include "common/http/connection.hpp"
#include "common/http/errors.hpp"

namespace troupe::http {

namespace asio = boost::asio;

namespace {

class pending_stream : public stream {
 public:
  pending_stream(std::shared_ptr<pending_exchange> owner, std::shared_ptr<stream_buffer> buffer)
      : owner_(std::move(owner)), buffer_(std::move(buffer)) {}

  ~pending_stream() override {
    if (!ended_) owner_->post([](connection& c) { c.close(); });
  }

  // The exchange has another answer already.
  void disown() {
    ended_ = true;
    buffer_->close();
  }

  bool write(std::string_view piece) override {
    switch (buffer_->add(piece)) {
      case stream_buffer::added::wake:
        owner_->post([](connection& c) { c.pump_stream(); });
        return true;
      case stream_buffer::added::full:
        owner_->post([](connection& c) { c.close(); });
        return false;
      case stream_buffer::added::queued:
        return true;
      case stream_buffer::added::closed:
        return false;
    }
    return false;
  }

  void finish() override {
    ended_ = true;
    owner_->end();
    if (buffer_->finish() == stream_buffer::added::wake) owner_->post([](connection& c) { c.pump_stream(); });
  }

  bool reply_instead(response answer) override {
    if (!buffer_->replace()) return false;
    ended_ = true;
    owner_->end();
    owner_->post_answer(std::move(answer));
    return true;
  }

 private:
  const std::shared_ptr<pending_exchange> owner_;
  const std::shared_ptr<stream_buffer> buffer_;
  std::atomic<bool> ended_{false};
};

}  // namespace

// -- stream_buffer ------------------------------------------------------------------------------------------------

stream_buffer::added stream_buffer::add(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  if (closed_ || finished_) return added::closed;
  if (waiting_.size() + piece.size() > limits::http_stream_buffer_bytes_max) {
    closed_ = true;
    return added::full;
  }
  began_ = true;
  waiting_ += piece;
  return std::exchange(woken_, true) ? added::queued : added::wake;
}

stream_buffer::added stream_buffer::finish() {
  const std::lock_guard lock(mutex_);
  if (closed_ || finished_) return added::closed;
  began_ = finished_ = true;
  return std::exchange(woken_, true) ? added::queued : added::wake;
}

bool stream_buffer::replace() {
  const std::lock_guard lock(mutex_);
  if (began_ || closed_) return false;
  closed_ = true;
  return true;
}

stream_buffer::taken stream_buffer::take() {
  const std::lock_guard lock(mutex_);
  woken_ = false;
  return {std::exchange(waiting_, std::string()), finished_ && !closed_};
}

void stream_buffer::add_ping() {
  const std::lock_guard lock(mutex_);
  if (closed_ || finished_ || !waiting_.empty()) return;
  began_ = true;
  waiting_ = head_.ping;
}

void stream_buffer::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

// -- pending_exchange ---------------------------------------------------------------------------------------------

pending_exchange::pending_exchange(std::shared_ptr<server_core> core, std::weak_ptr<connection> owner,
                                   std::uint64_t number)
    : core_(std::move(core)), owner_(std::move(owner)), number_(number) {}

pending_exchange::~pending_exchange() {
  if (!answered_) post_answer(error_response(500, "internal", "the request was dropped without an answer"));
}

void pending_exchange::reply(response answer) {
  if (answered_.exchange(true)) return;
  end();
  post_answer(std::move(answer));
}

void pending_exchange::reply_with(std::function<response()> make) {
  if (answered_.exchange(true)) return;
  end();
  asio::post(core_->io, [owner = owner_, number = number_, moved = std::move(make)] {
    if (auto alive = owner.lock()) alive->finish(number, moved());
  });
}

std::shared_ptr<stream> pending_exchange::begin_stream(stream_head head) {
  auto buffer = std::make_shared<stream_buffer>(std::move(head));
  auto made = std::make_shared<pending_stream>(shared_from_this(), buffer);
  if (answered_.exchange(true)) {
    made->disown();
    return made;
  }
  post([buffer = std::move(buffer)](connection& c) { c.begin_stream(buffer); });
  return made;
}

void pending_exchange::on_cancel(std::function<void()> on_gone) {
  {
    std::lock_guard lock(mutex_);
    if (!gone_) {
      on_gone_ = std::move(on_gone);
      return;
    }
  }
  on_gone();
}

void pending_exchange::client_is_gone() {
  std::function<void()> notify;
  {
    std::lock_guard lock(mutex_);
    gone_ = true;
    notify = std::move(on_gone_);
    on_gone_ = nullptr;
  }
  if (notify && !over_) notify();
}

void pending_exchange::post(std::function<void(connection&)> what) {
  asio::post(core_->io, [owner = owner_, number = number_, moved = std::move(what)] {
    auto alive = owner.lock();
    if (alive && alive->is_handling(number)) moved(*alive);
  });
}

void pending_exchange::post_answer(response answer) {
  asio::post(core_->io, [owner = owner_, number = number_, moved = std::move(answer)]() mutable {
    if (auto alive = owner.lock()) alive->finish(number, std::move(moved));
  });
}

}  // namespace troupe::http
