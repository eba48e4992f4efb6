// The wait for sockets and descriptors. zmq_poll would ask every socket twice per wait, each time by a system call; a
// router with three nodes has ten of them.
#include <poll.h>
#include <zmq.h>

#include <algorithm>
#include <climits>

#include "common/wire/socket.hpp"

namespace troupe::wire {
namespace {

// ZMQ_FD: readable while the socket has something to look at, which need not be a message.
int descriptor_of(const socket& s) {
  int descriptor = -1;
  std::size_t size = sizeof descriptor;
  zmq_getsockopt(s.handle(), ZMQ_FD, &descriptor, &size);
  return descriptor;
}

bool has_message(const socket& s) {
  int events = 0;
  std::size_t size = sizeof events;
  const bool has_one = zmq_getsockopt(s.handle(), ZMQ_EVENTS, &events, &size) == 0 && (events & ZMQ_POLLIN) != 0;
  if (!has_one) s.note_empty();
  return has_one;
}

}  // namespace

struct poller::state {
  std::vector<pollfd> descriptors;
  std::vector<const socket*> sockets;  // nullptr: the descriptor is meant
  std::vector<char> readable;

  std::size_t add(int descriptor, const socket* s);
  std::size_t note_messages();
  std::size_t note_descriptors();
};

std::size_t poller::state::add(int descriptor, const socket* s) {
  if (s != nullptr) s->note_use();
  descriptors.push_back({descriptor, POLLIN, 0});
  sockets.push_back(s);
  readable.push_back(0);
  return descriptors.size() - 1;
}

// Of the sockets whose descriptors cannot be relied on. How many are readable.
std::size_t poller::state::note_messages() {
  std::size_t count = 0;
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    const auto* s = sockets[i];
    readable[i] = s != nullptr && s->may_have_messages() && has_message(*s) ? 1 : 0;
    count += static_cast<std::size_t>(readable[i]);
  }
  return count;
}

// How many more are readable.
std::size_t poller::state::note_descriptors() {
  std::size_t count = 0;
  for (std::size_t i = 0; i < sockets.size(); ++i) {
    if (readable[i] != 0 || (descriptors[i].revents & POLLIN) == 0) continue;
    readable[i] = sockets[i] == nullptr || has_message(*sockets[i]) ? 1 : 0;
    count += static_cast<std::size_t>(readable[i]);
  }
  return count;
}

poller::poller() : state_(std::make_unique<state>()) {}
poller::~poller() = default;
poller::poller(poller&&) noexcept = default;
poller& poller::operator=(poller&&) noexcept = default;

std::size_t poller::add(const socket& s) { return state_->add(descriptor_of(s), &s); }

std::size_t poller::add(const wake_signal& signal) { return add_descriptor(signal.descriptor()); }

std::size_t poller::add_descriptor(int descriptor) { return state_->add(descriptor, nullptr); }

void poller::clear() { *state_ = {}; }

std::size_t poller::wait(std::chrono::nanoseconds timeout) {
  using std::chrono::steady_clock;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(std::max(timeout, std::chrono::nanoseconds{0}));
  const auto until = steady_clock::now() + left;
  while (true) {
    auto count = state_->note_messages();
    auto& descriptors = state_->descriptors;
    const auto wait_ms = count > 0 ? 0 : static_cast<int>(std::min<std::int64_t>(left.count(), INT_MAX));
    if (::poll(descriptors.data(), descriptors.size(), wait_ms) < 0) {  // EINTR
      std::ranges::fill(state_->readable, 0);
      return 0;
    }
    count += state_->note_descriptors();
    left = std::chrono::ceil<std::chrono::milliseconds>(until - steady_clock::now());
    if (count > 0 || left.count() <= 0) return count;
  }
}

bool poller::readable(std::size_t number) const { return state_->readable.at(number) != 0; }

}  // namespace troupe::wire
