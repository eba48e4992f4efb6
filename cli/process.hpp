// Daemons as the launcher sees them: start one detached from this terminal, tell whether it still runs, end it.
// A process is known by pid and start time, so that a reused pid is never mistaken for ours. Any thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"

namespace troupe::cli {

struct process_identity {
  pid_t pid{};
  std::uint64_t start_ticks{};  // field 22 of /proc/PID/stat: since boot, so another boot gives another number
  friend bool operator==(const process_identity&, const process_identity&) = default;
};

// Starts command[0] with the given arguments in a session of its own: standard input from /dev/null, output and errors
// appended to `log`, no other descriptor inherited, no TROUPE_ variable in its environment (the command line says all).
[[nodiscard]] result<process_identity> start_daemon(std::span<const std::string> command,
                                                    const std::filesystem::path& log);

// The process of that pid as it is now; nullopt when there is none or it is a zombie.
[[nodiscard]] std::optional<process_identity> find_process(pid_t pid);
// True while exactly this process runs.
[[nodiscard]] bool is_running(const process_identity& process);

// For children of this process that have ended: "exited with status 1", "was killed by signal 9 (Killed)".
// Reaps it; nullopt while it runs or when it is no child.
[[nodiscard]] std::optional<std::string> reap(pid_t child);

// Sends the signal if exactly this process still runs.
void send_signal(const process_identity& process, int signal);

// SIGTERM to all, then SIGKILL to those that are still there after `grace`. Returns those that had to be killed.
std::vector<process_identity> stop_processes(std::span<const process_identity> processes,
                                             std::chrono::milliseconds grace);

// The last `count` lines of a text file; empty when it cannot be read.
[[nodiscard]] std::vector<std::string> last_lines(const std::filesystem::path& file, std::size_t count);

}  // namespace troupe::cli
