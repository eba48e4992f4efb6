#include "common/daemon/signals.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace troupe::daemon {
namespace {

constexpr int interrupted_exit_code = 130;

}  // namespace

result<stop_signals> stop_signals::install() {
  sigset_t wanted;
  ::sigemptyset(&wanted);
  ::sigaddset(&wanted, SIGTERM);
  ::sigaddset(&wanted, SIGINT);
  if (const int code = ::pthread_sigmask(SIG_BLOCK, &wanted, nullptr); code != 0) {
    return fail(errc::internal, fmt::format("signals cannot be blocked: {}", std::strerror(code)));
  }
  // A peer that closes its end is an error of that write, not the end of the process. A closed terminal is none either.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGHUP, SIG_IGN);
  const int signals = ::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
  const int requests = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  stop_signals made(signals, requests);
  if (signals < 0 || requests < 0) {
    return fail(errc::internal, fmt::format("signals cannot be watched: {}", std::strerror(errno)));
  }
  return made;
}

stop_signals::stop_signals(stop_signals&& other) noexcept
    : signals_(std::exchange(other.signals_, -1)), requests_(std::exchange(other.requests_, -1)) {}

stop_signals::~stop_signals() {
  if (signals_ >= 0) ::close(signals_);
  if (requests_ >= 0) ::close(requests_);
}

std::optional<int> stop_signals::wait(std::optional<std::chrono::milliseconds> timeout) {
  using clock = std::chrono::steady_clock;
  const auto end = timeout ? std::optional(clock::now() + *timeout) : std::nullopt;
  while (true) {
    int left = -1;
    if (end)
      left = static_cast<int>(
          std::max<std::int64_t>(0, std::chrono::ceil<std::chrono::milliseconds>(*end - clock::now()).count()));
    std::array<pollfd, 2> items{{{signals_, POLLIN, 0}, {requests_, POLLIN, 0}}};
    const int ready = ::poll(items.data(), items.size(), left);
    if (ready == 0) return std::nullopt;
    signalfd_siginfo info{};
    if (::read(signals_, &info, sizeof info) == sizeof info) return static_cast<int>(info.ssi_signo);
    std::uint64_t count = 0;
    if (::read(requests_, &count, sizeof count) == sizeof count) return 0;
  }
}

void stop_signals::request() const {
  const std::uint64_t one = 1;
  while (::write(requests_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

shutdown_watchdog::shutdown_watchdog(stop_signals& signals, std::chrono::milliseconds grace, int exit_code)
    : signals_(signals), thread_([this, grace, exit_code] { watch(grace, exit_code); }) {}

shutdown_watchdog::~shutdown_watchdog() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  signals_.request();
  thread_.join();
}

void shutdown_watchdog::watch(std::chrono::milliseconds grace, int exit_code) {
  const auto end = std::chrono::steady_clock::now() + grace;
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
    const auto woken = signals_.wait(std::max(left, std::chrono::milliseconds{0}));
    {
      const std::lock_guard lock(mutex_);
      if (done_) return;
    }
    if (woken && *woken != 0) {
      std::fputs("error: interrupted a second time while stopping; exiting at once\n", stderr);
      ::_exit(interrupted_exit_code);
    }
    if (!woken) {
      std::fprintf(stderr, "error: stopping took longer than %lld ms; exiting at once\n",
                   static_cast<long long>(grace.count()));
      ::_exit(exit_code);
    }
  }
}

}  // namespace troupe::daemon
