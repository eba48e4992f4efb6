// Orderly stop of a daemon: SIGTERM or SIGINT ends main's wait; what then takes longer than the grace, or a second
// signal, ends the process at once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "common/error.hpp"

namespace troupe::daemon {

// One per process. SIGTERM and SIGINT are blocked from here on in this thread and in those that it starts; SIGPIPE and
// SIGHUP are ignored.
class stop_signals {
 public:
  // First thing in main, before any thread is started.
  [[nodiscard]] static result<stop_signals> install();
  stop_signals(stop_signals&& other) noexcept;
  stop_signals& operator=(stop_signals&&) = delete;
  ~stop_signals();

  // Until a signal arrives or request() is called, or the time is over. The signal's number; 0 for a request; nullopt
  // after `timeout`. One thread at a time.
  [[nodiscard]] std::optional<int> wait(std::optional<std::chrono::milliseconds> timeout = std::nullopt);
  // Ends wait() from any thread: the daemon shall stop for a reason of its own.
  void request() const;

 private:
  stop_signals(int signals, int requests) : signals_(signals), requests_(requests) {}
  int signals_{-1};
  int requests_{-1};
};

// Ends the process with `exit_code` when it is not destroyed within `grace`, and with 130 at a further signal.
class shutdown_watchdog {
 public:
  shutdown_watchdog(stop_signals& signals, std::chrono::milliseconds grace, int exit_code = 1);
  ~shutdown_watchdog();
  shutdown_watchdog(const shutdown_watchdog&) = delete;
  shutdown_watchdog& operator=(const shutdown_watchdog&) = delete;

 private:
  void watch(std::chrono::milliseconds grace, int exit_code);

  stop_signals& signals_;
  bool done_{};  // guarded by mutex_
  std::mutex mutex_;
  std::thread thread_;
};

}  // namespace troupe::daemon
