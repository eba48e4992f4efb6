#include "cli/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <fstream>
#include <sstream>
#include <thread>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds poll_interval{20};

// The environment without our own settings, which the command line repeats where they matter.
std::vector<char*> environment_for_daemons() {
  std::vector<char*> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "TROUPE_", 7) != 0) kept.push_back(*entry);
  }
  kept.push_back(nullptr);
  return kept;
}

// posix_spawn's two option objects, freed together.
class spawn_options {
 public:
  spawn_options() {
    ::posix_spawn_file_actions_init(&actions_);
    ::posix_spawnattr_init(&attributes_);
  }
  ~spawn_options() {
    ::posix_spawn_file_actions_destroy(&actions_);
    ::posix_spawnattr_destroy(&attributes_);
  }
  spawn_options(const spawn_options&) = delete;
  spawn_options& operator=(const spawn_options&) = delete;

  int configure(const char* log) {
    sigset_t none;
    sigset_t all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    constexpr int append = O_WRONLY | O_CREAT | O_APPEND;
    constexpr auto flags = POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    for (const int error :
         {::posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0),
          ::posix_spawn_file_actions_addopen(&actions_, STDOUT_FILENO, log, append, 0600),
          ::posix_spawn_file_actions_adddup2(&actions_, STDOUT_FILENO, STDERR_FILENO),
          ::posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1),
          ::posix_spawnattr_setsigmask(&attributes_, &none), ::posix_spawnattr_setsigdefault(&attributes_, &all),
          ::posix_spawnattr_setflags(&attributes_, static_cast<short>(flags))}) {
      if (error != 0) return error;
    }
    return 0;
  }

  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

result<process_identity> start_daemon(std::span<const std::string> command, const std::filesystem::path& log) {
  std::vector<char*> arguments;
  for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  spawn_options options;
  pid_t pid = 0;
  int failure = options.configure(log.c_str());
  if (failure == 0) {
    failure = ::posix_spawn(&pid, arguments[0], &options.actions_, &options.attributes_, arguments.data(),
                            environment_for_daemons().data());
  }
  if (failure != 0) {
    return fail(errc::internal,
                fmt::format("cannot start {}: {}; is it built (scripts/build.sh), and can {} be written?",
                            command.front(), std::strerror(failure), log.string()));
  }
  // A child that has ended already stays a zombie until reap(): its start time can be read in any case.
  const auto found = find_process(pid);
  return process_identity{pid, found ? found->start_ticks : 0};
}

std::optional<process_identity> find_process(pid_t pid) {
  std::ifstream file{fmt::format("/proc/{}/stat", pid)};
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  // The command's name, in parentheses, may hold anything: fields are counted from behind its last parenthesis.
  const auto close = text.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream fields{text.substr(close + 1)};
  std::string state;
  fields >> state;
  if (state == "Z" || state == "X") return std::nullopt;
  std::string skipped;
  for (int field = 4; field < 22; ++field) fields >> skipped;
  std::uint64_t start = 0;
  if (!(fields >> start)) return std::nullopt;
  return process_identity{pid, start};
}

bool is_running(const process_identity& process) { return process.pid > 0 && find_process(process.pid) == process; }

std::optional<std::string> reap(pid_t child) {
  int status = 0;
  if (::waitpid(child, &status, WNOHANG) != child) return std::nullopt;
  if (WIFSIGNALED(status)) {
    return fmt::format("was killed by signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
  }
  return fmt::format("exited with status {}", WEXITSTATUS(status));
}

void send_signal(const process_identity& process, int signal) {
  if (is_running(process)) ::kill(process.pid, signal);
}

std::vector<process_identity> stop_processes(std::span<const process_identity> processes,
                                             std::chrono::milliseconds grace) {
  // A stopped process would not see SIGTERM.
  for (const auto& process : processes) send_signal(process, SIGTERM);
  for (const auto& process : processes) send_signal(process, SIGCONT);
  std::vector<process_identity> left{processes.begin(), processes.end()};
  const auto wait_for_end = [&left](clock::time_point deadline) {
    while (true) {
      for (const auto& process : left) (void)reap(process.pid);
      std::erase_if(left, [](const auto& process) { return !is_running(process); });
      if (left.empty() || clock::now() >= deadline) return;
      std::this_thread::sleep_for(poll_interval);
    }
  };
  wait_for_end(clock::now() + grace);
  auto killed = left;
  for (const auto& process : left) send_signal(process, SIGKILL);
  wait_for_end(clock::now() + std::chrono::seconds{5});
  return killed;
}

std::vector<std::string> last_lines(const std::filesystem::path& file, std::size_t count) {
  std::ifstream stream{file};
  std::deque<std::string> lines;
  for (std::string line; std::getline(stream, line);) {
    lines.push_back(std::move(line));
    if (lines.size() > count) lines.pop_front();
  }
  return {lines.begin(), lines.end()};
}

}  // namespace troupe::cli
