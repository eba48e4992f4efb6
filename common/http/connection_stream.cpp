// How a connection sends an answer piece by piece.
#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <boost/asio/write.hpp>
#include <boost/beast/http/write.hpp>

#include "common/http/connection.hpp"
#include "common/http/exchange.hpp"

namespace troupe::http {

namespace asio = boost::asio;
using boost::system::error_code;

void connection::begin_stream(std::shared_ptr<stream_buffer> buffer) {
  release_body();
  stream_ = std::move(buffer);
  arm_ping();
  pump_stream();
}

void connection::arm_ping() {
  if (stream_->head().ping.empty()) return;
  ping_timer_.expires_after(stream_->head().ping_interval);
  ping_timer_.async_wait([weak = weak_from_this(), buffer = stream_](error_code cancelled) {
    auto self = weak.lock();
    if (cancelled || !self || self->stream_ != buffer || self->stream_writes_) return;
    buffer->add_ping();
    self->pump_stream();
  });
}

// One write at a time; what is added meanwhile goes with the next.
void connection::pump_stream() {
  if (!stream_ || stream_writes_) return;
  auto [bytes, is_last] = stream_->take();
  if (bytes.empty() && !is_last) return;
  if (!stream_began_) begin_chunks();
  const bool chunked = outgoing_->chunked();
  if (!bytes.empty()) {
    if (chunked) stream_bytes_ += fmt::format("{:x}\r\n", bytes.size());
    stream_bytes_ += bytes;
    if (chunked) stream_bytes_ += "\r\n";
  }
  if (is_last && chunked) stream_bytes_ += "0\r\n\r\n";
  write_stream(is_last);
}

void connection::begin_chunks() {
  stream_began_ = true;
  make_head(200, stream_->head().content_type, stream_->head().headers);
  if (outgoing_->version() >= 11) {
    outgoing_->chunked(true);
  } else {
    keep_alive_ = false;  // the end of the connection is the end of the answer
    outgoing_->keep_alive(false);
  }
  std::ostringstream head;
  head << outgoing_->base();
  stream_bytes_ = head.str();
}

void connection::write_stream(bool is_last) {
  stream_writes_ = true;
  ping_timer_.cancel();
  arm(limits::http_stream_write_timeout);
  asio::async_write(socket_, asio::buffer(stream_bytes_),
                    [self = shared_from_this(), is_last](error_code failure, std::size_t /*bytes*/) {
                      self->stream_writes_ = false;
                      self->stream_bytes_.clear();
                      if (failure) return self->close();
                      if (!self->stream_) return;  // closed meanwhile
                      self->timer_.cancel();
                      if (is_last) return self->on_stream_end();
                      self->arm_ping();
                      self->pump_stream();
                    });
}

void connection::on_stream_end() {
  const auto until_return = std::move(alive_);
  handling_ = false;
  end_stream();
  exchange_.reset();
  const bool again = outgoing_ && outgoing_->keep_alive() && !core_->stopping;
  outgoing_.reset();
  again ? await_request() : linger();
}

void connection::end_stream() {
  if (!stream_) return;
  stream_->close();
  stream_.reset();
  stream_began_ = false;
  ping_timer_.cancel();
}

}  // namespace troupe::http
