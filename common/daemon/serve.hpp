// The middle of a daemon's main function: from "the flags are read" to the exit status.
#pragma once

#include <mutex>
#include <string>
#include <utility>

#include <spdlog/spdlog.h>

#include "common/daemon/process.hpp"
#include "common/daemon/signals.hpp"
#include "common/error.hpp"
#include "common/limits.hpp"

namespace troupe::daemon {

// Exit statuses beside 0 and 2 (usage). The second is EX_CONFIG of sysexits.h: another start can only succeed once the
// operator has changed something, an address that is taken for example (faults.md N12).
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;
inline constexpr int exit_config = 78;

// Says on standard error what is wrong, and returns the exit status for it: `code`, or exit_config for a conflict.
int complain(const error& reason, int code = exit_failed);

// Starts a daemon, waits for a signal or its own failure, stops it. `start` is called with a function that the daemon
// may call from any thread, once, when it cannot go on; it returns result<std::unique_ptr<D>>, where D has describe()
// and stop(grace). Returns the exit status.
template <class Start>
int serve(stop_signals& signals, Start&& start) {
  std::mutex mutex;
  std::string failure;
  auto started = std::forward<Start>(start)([&](std::string reason) {
    {
      const std::lock_guard lock{mutex};
      failure = std::move(reason);
    }
    signals.request();
  });
  if (!started) {
    spdlog::critical("{}", started.error().message);
    return complain(started.error());
  }
  spdlog::info("{}", (*started)->describe());
  notify_service("READY=1");
  static_cast<void>(signals.wait());
  notify_service("STOPPING=1");
  const shutdown_watchdog watchdog{signals, limits::shutdown_grace * 2};
  (*started)->stop(limits::shutdown_grace);
  started->reset();
  const std::lock_guard lock{mutex};
  if (failure.empty()) return 0;
  spdlog::critical("{}", failure);
  return complain({errc::internal, failure});
}

}  // namespace troupe::daemon
