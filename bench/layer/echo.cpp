#include "bench/layer/echo.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

extern char** environ;

namespace troupe::bench {
namespace {

constexpr int answer_timeout_ms = 10'000;

}  // namespace

int run_echo_peer(const std::string& address) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_ROUTER);
  if (zmq_bind(socket, address.c_str()) != 0) return 1;
  std::vector<char> reply;
  while (true) {
    zmq_msg_t identity;
    zmq_msg_t request;
    zmq_msg_init(&identity);
    zmq_msg_init(&request);
    if (zmq_msg_recv(&identity, socket, 0) < 0 || zmq_msg_recv(&request, socket, 0) < 0) return 1;
    std::uint64_t bytes = 0;
    if (zmq_msg_size(&request) < sizeof bytes) return 1;
    std::memcpy(&bytes, zmq_msg_data(&request), sizeof bytes);
    zmq_msg_close(&request);
    reply.resize(bytes);
    zmq_msg_send(&identity, socket, ZMQ_SNDMORE);
    zmq_send(socket, reply.data(), reply.size(), 0);
  }
}

struct echo_peers::state {
  void* context{};
  std::vector<void*> sockets;
  std::vector<pid_t> processes;
  std::vector<char> request;

  ~state() {
    for (pid_t process : processes) {
      kill(process, SIGKILL);
      waitpid(process, nullptr, 0);
    }
    for (void* socket : sockets) zmq_close(socket);
    if (context != nullptr) zmq_ctx_term(context);
  }
};

echo_peers::echo_peers(std::unique_ptr<state> s) : state_{std::move(s)} {}
echo_peers::echo_peers(echo_peers&&) noexcept = default;
echo_peers& echo_peers::operator=(echo_peers&&) noexcept = default;
echo_peers::~echo_peers() = default;

result<echo_peers> echo_peers::start(const std::filesystem::path& program, const std::filesystem::path& folder,
                                     std::size_t count) {
  auto s = std::make_unique<state>();
  s->context = zmq_ctx_new();
  for (std::size_t i = 0; i < count; ++i) {
    auto address = fmt::format("ipc://{}", (folder / fmt::format("echo-{}.ipc", i)).string());
    std::array<std::string, 4> words{program.string(), "bench", "echo-peer", address};
    std::array<char*, 5> arguments{words[0].data(), words[1].data(), words[2].data(), words[3].data(), nullptr};
    pid_t process = 0;
    if (posix_spawn(&process, program.c_str(), nullptr, nullptr, arguments.data(), environ) != 0) {
      return fail(errc::internal, fmt::format("cannot start {} as an echo peer", program.string()));
    }
    s->processes.push_back(process);
    void* socket = zmq_socket(s->context, ZMQ_DEALER);
    s->sockets.push_back(socket);
    int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &answer_timeout_ms, sizeof answer_timeout_ms);
    if (zmq_connect(socket, address.c_str()) != 0) {
      return fail(errc::internal, fmt::format("cannot connect to the echo peer at {}", address));
    }
  }
  echo_peers peers{std::move(s)};
  if (auto ready = peers.scatter_gather(count, sizeof(std::uint64_t), 1); !ready) return fail(ready.error());
  return peers;
}

result<void> echo_peers::scatter_gather(std::size_t peers, std::size_t request_bytes, std::size_t reply_bytes) {
  auto& request = state_->request;
  request.resize(std::max(request_bytes, sizeof(std::uint64_t)));
  const std::uint64_t wanted = reply_bytes;
  std::memcpy(request.data(), &wanted, sizeof wanted);
  peers = std::min(peers, state_->sockets.size());
  for (std::size_t i = 0; i < peers; ++i) {
    if (zmq_send(state_->sockets[i], request.data(), request.size(), 0) < 0) {
      return fail(errc::internal, fmt::format("echo peer {} took no message", i));
    }
  }
  for (std::size_t i = 0; i < peers; ++i) {
    zmq_msg_t reply;
    zmq_msg_init(&reply);
    const int received = zmq_msg_recv(&reply, state_->sockets[i], 0);
    zmq_msg_close(&reply);
    if (received < 0) return fail(errc::timeout, fmt::format("echo peer {} did not answer", i));
  }
  return {};
}

}  // namespace troupe::bench
