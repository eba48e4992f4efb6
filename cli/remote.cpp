#include "cli/remote.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "cli/terminal.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

// Runs the command and stops it when standard input ends. The reader of standard input is killed with the command, so
// that the connection closes.
std::string keeping_script(std::span<const std::string> command) {
  std::string line;
  for (const auto& word : command) line += quote_for_shell(word) + ' ';
  const auto patience = (limits::shutdown_grace + std::chrono::seconds{2}) / std::chrono::seconds{1};
  return fmt::format(
      "exec 3<&0; {}</dev/null 3<&- & child=$!; "
      "(while read -r line; do :; done; kill -TERM $child; sleep {}; kill -KILL $child) <&3 >/dev/null 2>&1 & "
      "reader=$!; "
      "exec 3<&-; wait $child; code=$?; kill $reader 2>/dev/null; exit $code",
      line, patience);
}

std::string wrapped(const std::string& script) { return "exec sh -c " + quote_for_shell(script); }

// Starts it with standard input from `input`; the signals that this process waits for are open to it.
result<pid_t> start_reading(std::vector<std::string> command, int input, int others_end) {
  std::vector<char*> arguments;
  for (auto& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  sigset_t none;
  ::sigemptyset(&none);
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addclose(&actions, others_end);
  ::posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  pid_t child = 0;
  const int failure = ::posix_spawnp(&child, arguments[0], &actions, &attributes, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  ::posix_spawnattr_destroy(&attributes);
  if (failure != 0) {
    return fail(errc::not_found,
                fmt::format("cannot run {}: {}; is it installed?", printable(command.front()), std::strerror(failure)));
  }
  return child;
}

exit_code ended(int status) {
  // A signal ended it: as shells say it.
  return static_cast<exit_code>(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

}  // namespace

result<line_outcome> run_line(const std::string& line) {
  auto* pipe = ::popen(line.c_str(), "re");
  if (pipe == nullptr) return fail(errc::internal, fmt::format("cannot start a shell: {}", std::strerror(errno)));
  line_outcome done;
  std::array<char, 4096> part{};
  while (const auto count = std::fread(part.data(), 1, part.size(), pipe)) done.said.append(part.data(), count);
  const int status = ::pclose(pipe);
  done.code = WIFEXITED(status) ? WEXITSTATUS(status) : 1;
  return done;
}

std::string quote_for_shell(const std::string& word) {
  std::string quoted = "'";
  for (const char c : word) {
    if (c == '\'') {
      quoted += "'\\''";
    } else {
      quoted += c;
    }
  }
  return quoted + "'";
}

std::vector<std::string> keeper_of(const machine& where, const fs::path& troupe, std::span<const std::string> command) {
  std::vector<std::string> words{troupe.string(), "run-remote", "--", std::to_string(where.shell.size())};
  words.insert(words.end(), where.shell.begin(), where.shell.end());
  words.insert(words.end(), command.begin(), command.end());
  return words;
}

result<exit_code> run_remote(std::span<const std::string> words) {
  std::size_t count = 0;
  const auto& first = words.front();
  const auto end = std::from_chars(first.data(), first.data() + first.size(), count);
  if (end.ec != std::errc{} || count == 0 || words.size() < count + 2) {
    print_error("run-remote is what troupe up starts for a daemon on another machine; it is not for typing");
    return exit_code::usage;
  }
  std::vector<std::string> command(words.begin() + 1, words.begin() + 1 + static_cast<std::ptrdiff_t>(count));
  command.push_back(wrapped(keeping_script(words.subspan(1 + count))));
  sigset_t awaited;
  ::sigemptyset(&awaited);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::sigaddset(&awaited, signal);
  ::sigprocmask(SIG_BLOCK, &awaited, nullptr);
  int input[2]{};
  if (::pipe2(input, O_CLOEXEC) != 0) return fail(errc::internal, fmt::format("no pipe: {}", std::strerror(errno)));
  const auto child = start_reading(std::move(command), input[0], input[1]);
  if (!child) return fail(child.error());
  ::close(input[0]);
  while (true) {
    int signal = 0;
    ::sigwait(&awaited, &signal);
    int status = 0;
    if (signal == SIGCHLD && ::waitpid(*child, &status, WNOHANG) == *child) return ended(status);
    if (signal != SIGCHLD && input[1] >= 0) ::close(std::exchange(input[1], -1));  // it ends, then
  }
}

result<void> send_keys(const fs::path& data_dir, const cluster_context& context, const machine& where) {
  std::string files = "authorized";
  for (const auto& process : context.processes) {
    if (process.role == "coordinator") files += ' ' + quote_for_shell(process.name + ".pub");
    if (process.machine == where.name) files += ' ' + quote_for_shell(process.name + ".key");
  }
  const auto folder = quote_for_shell(data_dir.string());
  const auto script = fmt::format(
      "umask 077; mkdir -p {0}/keys {0}/run {0}/log || exit 1; chmod 700 {0} {0}/keys {0}/run {0}/log; "
      "if grep -q {1} {0}/context.json 2>/dev/null; then cat >/dev/null; else tar -xf - -C {0}/keys; fi",
      folder, quote_for_shell(context.cluster_id));
  std::string line = fmt::format("tar -cf - -C {}/keys {} |", folder, files);
  for (const auto& word : where.shell) line += ' ' + quote_for_shell(word);
  const auto done = run_line(line + ' ' + quote_for_shell(wrapped(script)) + " 2>&1");
  if (!done) return fail(done.error());
  if (done->code == 0) return {};
  const auto said = done->said.substr(0, done->said.find_last_not_of('\n') + 1);
  return fail(errc::unavailable, fmt::format("cannot reach {}: {}; try by hand: {} true", where.name,
                                             said.empty() ? fmt::format("exit status {}", done->code) : printable(said),
                                             fmt::to_string(fmt::join(where.shell, " "))));
}

result<void> send_keys(const fs::path& data_dir, const cluster_context& context) {
  for (const auto& where : context.machines) {
    if (!where.is_remote()) continue;
    if (auto sent = send_keys(data_dir, context, where); !sent) return sent;
  }
  return {};
}

}  // namespace troupe::cli
