#include "bench/transfer/bare.hpp"

#include <zmq.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <thread>

namespace troupe::bench {
namespace {

constexpr int patience_ms = 10'000;

void check(int rc, const char* call) {
  if (rc < 0) throw std::runtime_error(std::string{call} + ": " + zmq_strerror(zmq_errno()));
}

void set_key(void* socket, int option, const std::string& z85) {
  check(zmq_setsockopt(socket, option, z85.data(), z85.size()), "CURVE key");
}

}  // namespace

struct bare_source::state {
  std::span<const std::byte> bytes;
  std::size_t chunk_bytes;
  std::string address;
  void* context;
  void* socket;
  std::thread thread;

  // Until the context is shut down.
  void serve() {
    std::array<char, 256> peer;
    std::array<char, 16> request;
    while (true) {
      const int peer_bytes = zmq_recv(socket, peer.data(), peer.size(), 0);
      if (peer_bytes < 0 || zmq_recv(socket, request.data(), request.size(), 0) < 0) return;
      for (std::size_t at = 0; at < bytes.size(); at += chunk_bytes) {
        zmq_send(socket, peer.data(), static_cast<std::size_t>(peer_bytes), ZMQ_SNDMORE);
        const auto part = bytes.subspan(at, std::min(chunk_bytes, bytes.size() - at));
        zmq_send_const(socket, part.data(), part.size(), 0);
      }
    }
  }
};

bare_source::bare_source(const std::string& address, std::span<const std::byte> bytes, std::size_t chunk_bytes,
                         const std::optional<wire::key_pair>& keys)
    : state_{new state{bytes, chunk_bytes, {}, zmq_ctx_new(), nullptr, {}}} {
  state_->socket = zmq_socket(state_->context, ZMQ_ROUTER);
  if (keys) {
    const int yes = 1;
    check(zmq_setsockopt(state_->socket, ZMQ_CURVE_SERVER, &yes, sizeof yes), "ZMQ_CURVE_SERVER");
    set_key(state_->socket, ZMQ_CURVE_SECRETKEY, keys->secret_key);
  }
  check(zmq_bind(state_->socket, address.c_str()), "zmq_bind");
  std::array<char, 256> bound{};
  std::size_t size = bound.size();
  check(zmq_getsockopt(state_->socket, ZMQ_LAST_ENDPOINT, bound.data(), &size), "ZMQ_LAST_ENDPOINT");
  state_->address = bound.data();
  state_->thread = std::thread{[this] { state_->serve(); }};
}

bare_source::~bare_source() {
  zmq_ctx_shutdown(state_->context);
  if (state_->thread.joinable()) state_->thread.join();
  const int linger = 0;
  zmq_setsockopt(state_->socket, ZMQ_LINGER, &linger, sizeof linger);
  zmq_close(state_->socket);
  zmq_ctx_term(state_->context);
}

const std::string& bare_source::address() const { return state_->address; }

bare_sink::bare_sink(const std::string& address, const std::optional<std::string>& source_key)
    : context_{zmq_ctx_new()}, socket_{zmq_socket(context_, ZMQ_DEALER)} {
  zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
  const int linger = 0;
  zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof linger);
  if (source_key) {
    std::array<char, 41> mine{}, secret{};
    check(zmq_curve_keypair(mine.data(), secret.data()), "zmq_curve_keypair");
    set_key(socket_, ZMQ_CURVE_SERVERKEY, *source_key);
    set_key(socket_, ZMQ_CURVE_PUBLICKEY, mine.data());
    set_key(socket_, ZMQ_CURVE_SECRETKEY, secret.data());
  }
  check(zmq_connect(socket_, address.c_str()), "zmq_connect");
}

bare_sink::~bare_sink() {
  zmq_close(socket_);
  zmq_ctx_term(context_);
}

std::uint64_t bare_sink::fetch(std::uint64_t expected_bytes) {
  check(zmq_send(socket_, "go", 2, 0), "zmq_send");
  std::uint64_t arrived = 0;
  while (arrived < expected_bytes) {
    zmq_msg_t chunk;
    zmq_msg_init(&chunk);
    check(zmq_msg_recv(&chunk, socket_, 0), "zmq_msg_recv");
    arrived += zmq_msg_size(&chunk);
    zmq_msg_close(&chunk);
  }
  return arrived;
}

}  // namespace troupe::bench
