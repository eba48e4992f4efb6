// Log, flags, signals, data folder and lock of the daemons (faults.md D6, D8, H9, O7).
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "common/daemon/data_folder.hpp"
#include "common/daemon/escape.hpp"
#include "common/daemon/flags.hpp"
#include "common/daemon/log.hpp"
#include "common/daemon/process.hpp"
#include "common/daemon/signals.hpp"

namespace troupe::daemon {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

class daemon_test : public testing::Test {
 protected:
  daemon_test() {
    std::string pattern = (fs::temp_directory_path() / "troupe-daemon-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~daemon_test() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  std::string text_of(const fs::path& file) const {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
  }
  fs::path folder_;
};

// Runs `work` in a child process and returns its wait status: signals, locks and logs are per process.
int in_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

int exit_code(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : -1; }

// -- escaping -----------------------------------------------------------------------------------------------------

TEST(escape_H9, makes_newlines_ansi_and_broken_utf8_visible) {
  EXPECT_EQ(escape_text("plain \xc3\xa4 text"), "plain \xc3\xa4 text");
  EXPECT_EQ(escape_text("a\nb\tc\r"), "a\\nb\\tc\\x0d");
  EXPECT_EQ(escape_text("\x1b[31mred"), "\\x1b[31mred");
  EXPECT_EQ(escape_text("\xc2\x9b"
                        "31m"),
            "\\xc2\\x9b31m");
  EXPECT_EQ(escape_text("\xff\xc3"), "\\xff\\xc3");
  EXPECT_EQ(escape_text("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(escape_text("\xe0\x80\x80"), "\\xe0\\x80\\x80") << "over-long";
  EXPECT_EQ(escape_text(std::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(escape_json("say \"hi\"\\\n"), "say \\\"hi\\\"\\\\\\\\n");
}

// -- log ----------------------------------------------------------------------------------------------------------

TEST_F(daemon_test, log_writes_one_harmless_line_per_message) {
  const auto file = folder_ / "x.log";
  ASSERT_EQ(exit_code(in_child([&] {
              if (!start_log({"expert-0", "info", "text", file})) return 1;
              spdlog::info("peer said: {}", "fine\nerror forged line");
              spdlog::debug("not shown");
              stop_log();
              return 0;
            })),
            0);
  const auto text = text_of(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1);
  EXPECT_NE(text.find("expert-0: peer said: fine\\nerror forged line"), std::string::npos) << text;
}

TEST_F(daemon_test, log_writes_json_that_parsers_take) {
  const auto file = folder_ / "x.log";
  ASSERT_EQ(exit_code(in_child([&] {
              if (!start_log({"router-0", "warning", "json", file})) return 1;
              spdlog::warn("a \"quoted\" \\ line\n\xff");
              stop_log();
              return 0;
            })),
            0);
  const auto line = nlohmann::json::parse(text_of(file));
  EXPECT_EQ(line.at("process"), "router-0");
  EXPECT_EQ(line.at("level"), "warning");
  EXPECT_EQ(line.at("text"), "a \"quoted\" \\ line\\n\\xff");
}

TEST_F(daemon_test, log_O7_drops_the_oldest_lines_and_says_how_many) {
  // A pipe that nobody reads stands for a disk that hangs: nothing leaves until the writer has written all it wants.
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe(ends.data()), 0);
  constexpr int lines = 50'000;
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    if (!start_log({"x", "info", "text", {}})) ::_exit(1);
    for (int i = 0; i < lines; ++i) spdlog::info("line {} {}", i, std::string(60, '.'));
    std::ofstream(folder_ / "written") << "x";
    stop_log();
    ::_exit(0);
  }
  ::close(ends[1]);
  const auto end = std::chrono::steady_clock::now() + 30s;
  while (!fs::exists(folder_ / "written") && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  ASSERT_TRUE(fs::exists(folder_ / "written")) << "logging must not wait for the disk";
  std::string text;
  std::array<char, 4096> chunk{};
  for (ssize_t got = 0; (got = ::read(ends[0], chunk.data(), chunk.size())) > 0;) text.append(chunk.data(), got);
  ::close(ends[0]);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(exit_code(status), 0);
  EXPECT_NE(text.find(fmt::format("line {} ", lines - 1)), std::string::npos) << "the newest line is kept";
  EXPECT_LT(std::count(text.begin(), text.end(), '\n'), lines);
  EXPECT_NE(text.find("log lines were dropped"), std::string::npos);
}

TEST(log_options_check, refuses_unknown_levels_and_formats) {
  EXPECT_EQ(start_log({"x", "loud", "text", {}}).error().code, errc::invalid_request);
  EXPECT_EQ(start_log({"x", "info", "xml", {}}).error().code, errc::invalid_request);
}

TEST(log_limit, admits_a_burst_then_one_per_interval_and_counts_the_rest) {
  log_limit limit(2, 1s);
  const auto start = std::chrono::steady_clock::time_point{} + 100s;
  EXPECT_EQ(limit.admit(start), 0U);
  EXPECT_EQ(limit.admit(start), 0U);
  EXPECT_FALSE(limit.admit(start));
  EXPECT_FALSE(limit.admit(start + 900ms));
  EXPECT_EQ(limit.admit(start + 1s), 2U);
  EXPECT_FALSE(limit.admit(start + 1500ms));
  EXPECT_EQ(limit.admit(start + 10s), 1U);
  EXPECT_EQ(limit.admit(start + 10s), 0U);
  EXPECT_FALSE(limit.admit(start + 10s)) << "waiting does not save up more than a burst";
  EXPECT_EQ(dropped_note(0), "");
  EXPECT_EQ(dropped_note(3), " (3 like this were dropped)");
}

// -- folder and lock ----------------------------------------------------------------------------------------------

TEST_F(daemon_test, data_folder_is_made_closed_to_others) {
  const auto folder = folder_ / "deep" / "data";
  ASSERT_TRUE(prepare_private_folder(folder));
  EXPECT_EQ(fs::status(folder).permissions(), fs::perms::owner_all);
  EXPECT_TRUE(prepare_private_folder(folder)) << "a second time";
}

TEST_F(daemon_test, data_folder_D6_is_refused_with_path_owner_and_mode) {
  fs::permissions(folder_, fs::perms::group_read, fs::perm_options::add);
  const auto open = prepare_private_folder(folder_);
  EXPECT_EQ(open.error().code, errc::permission_denied);
  for (const auto& part : {folder_.string(), std::string("0740"), "uid " + std::to_string(::geteuid())}) {
    EXPECT_NE(open.error().message.find(part), std::string::npos) << open.error().message;
  }
  std::ofstream(folder_ / "file") << "x";
  EXPECT_EQ(prepare_private_folder(folder_ / "file").error().code, errc::permission_denied);
  EXPECT_EQ(prepare_private_folder("/proc/nothing/here").error().code, errc::permission_denied);
}

TEST_F(daemon_test, lock_D8_keeps_a_second_process_out_and_names_the_first) {
  const auto file = folder_ / "lock";
  const auto second = [&] {
    auto lock = instance_lock::take(file);
    if (lock) return 0;
    const bool named = lock.error().message.find("already running, pid " + std::to_string(::getppid())) == 0;
    return named && lock.error().code == errc::conflict ? 7 : 8;
  };
  {
    auto lock = instance_lock::take(file);
    ASSERT_TRUE(lock) << lock.error().message;
    EXPECT_EQ(exit_code(in_child(second)), 7);
    auto moved = std::move(*lock);
    EXPECT_EQ(exit_code(in_child(second)), 7);
  }
  EXPECT_EQ(exit_code(in_child(second)), 0) << "free once its holder is gone";
}

// Takes the lock and loses its first thread; another one holds on until the far end of `held` is closed.
[[noreturn]] void hold_without_first_thread(const std::filesystem::path& file, int held) {
  static auto lock = instance_lock::take(file);
  std::thread([held] {
    char byte = 0;
    while (::read(held, &byte, 1) > 0) {
    }
    ::_exit(lock ? 0 : 1);
  }).detach();
  ::syscall(SYS_exit, 0);
  std::abort();
}

// False: it did not hold within seconds.
bool comes_true(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::yield();
  }
  return true;
}

bool has_open(const std::filesystem::path& file) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (std::filesystem::read_symlink(entry, gone) == file) return true;
  }
  return false;
}

TEST_F(daemon_test, lock_D8_waits_for_a_process_that_is_ending) {
  const auto file = folder_ / "lock";
  int held[2];
  ASSERT_EQ(::pipe(held), 0);
  const auto holder = ::fork();
  if (holder == 0) {
    ::close(held[1]);
    hold_without_first_thread(file, held[0]);
  }
  ::close(held[0]);
  const auto state_of_holder = [&] {
    std::ifstream stat(fmt::format("/proc/{}/stat", holder));
    std::string text;
    std::getline(stat, text);
    return text.substr(text.rfind(')') + 2, 1);
  };
  ASSERT_TRUE(comes_true([&] { return state_of_holder() == "Z"; }));
  std::atomic<bool> is_taken{false};
  std::thread successor([&] {
    auto lock = instance_lock::take(file);
    EXPECT_TRUE(lock) << lock.error().message;
    is_taken = true;
  });
  EXPECT_TRUE(comes_true([&] { return has_open(file); })) << "it does not wait";
  EXPECT_FALSE(is_taken) << "another thread of the holder is still there";
  ::close(held[1]);
  successor.join();
  ::waitpid(holder, nullptr, 0);
}

// -- signals ------------------------------------------------------------------------------------------------------

TEST(stop_signals, end_the_wait) {
  EXPECT_EQ(exit_code(in_child([] {
              auto signals = stop_signals::install();
              if (!signals) return 1;
              if (signals->wait(0ms)) return 2;
              ::kill(::getpid(), SIGTERM);
              if (signals->wait(5s) != SIGTERM) return 3;
              std::thread other([&] { signals->request(); });
              const auto asked = signals->wait(5s);
              other.join();
              return asked == 0 ? 0 : 4;
            })),
            0);
}

TEST(shutdown_watchdog, ends_a_process_that_does_not_stop) {
  EXPECT_EQ(exit_code(in_child([] {
              auto signals = stop_signals::install();
              const shutdown_watchdog dog(*signals, 20ms, 9);
              while (true) ::pause();
              return 0;
            })),
            9);
}

TEST(shutdown_watchdog, ends_a_process_at_the_second_signal) {
  EXPECT_EQ(exit_code(in_child([] {
              auto signals = stop_signals::install();
              const shutdown_watchdog dog(*signals, 60s, 9);
              ::kill(::getpid(), SIGINT);
              while (true) ::pause();
              return 0;
            })),
            130);
}

TEST(shutdown_watchdog, lets_a_process_go_that_stops_in_time) {
  EXPECT_EQ(exit_code(in_child([] {
              auto signals = stop_signals::install();
              { const shutdown_watchdog dog(*signals, 60s, 9); }
              return 5;
            })),
            5);
}

// -- flags --------------------------------------------------------------------------------------------------------

struct parsed {
  std::optional<int> exit;
  daemon_flags common;
  std::uint32_t threads{2};
  std::string device{"cpu"};
  bool verbose{};
  std::string out;
  std::string err;
};

parsed parse(std::vector<const char*> arguments) {
  parsed p;
  flag_parser flags("troupe-test", "A test.");
  add_daemon_flags(flags, p.common, "test-0");
  flags.add("--threads", p.threads, "threads");
  flags.add_choice("--device", p.device, {"cpu", "reference"}, "device");
  flags.add("--verbose", p.verbose, "more");
  arguments.insert(arguments.begin(), "troupe-test");
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  p.exit = flags.parse(static_cast<int>(arguments.size()), arguments.data());
  p.out = testing::internal::GetCapturedStdout();
  p.err = testing::internal::GetCapturedStderr();
  return p;
}

TEST(flags, win_over_variables_which_win_over_defaults) {
  EXPECT_EQ(parse({}).threads, 2U);
  ::setenv("TROUPE_THREADS", "3", 1);
  ::setenv("TROUPE_VERBOSE", "true", 1);
  EXPECT_EQ(parse({}).threads, 3U);
  EXPECT_TRUE(parse({}).verbose);
  EXPECT_EQ(parse({"--threads", "4"}).threads, 4U);
  EXPECT_EQ(parse({"--threads=5"}).threads, 5U);
  ::setenv("TROUPE_THREADS", "many", 1);
  EXPECT_EQ(parse({}).exit, 2);
  ::unsetenv("TROUPE_THREADS");
  ::unsetenv("TROUPE_VERBOSE");
}

TEST(flags, that_are_wrong_end_the_process_with_2) {
  for (const auto& wrong : std::vector<std::vector<const char*>>{{"--no-such-flag"},
                                                                 {"stray"},
                                                                 {"--threads"},
                                                                 {"--threads", "-1"},
                                                                 {"--threads", "99999999999"},
                                                                 {"--device", "gpu"},
                                                                 {"--log-level", "loud"}}) {
    const auto p = parse(wrong);
    EXPECT_EQ(p.exit, 2) << wrong[0];
    EXPECT_EQ(p.err.find("error: "), 0U) << p.err;
    EXPECT_NE(p.err.find("--help"), std::string::npos);
  }
}

TEST(flags, answer_help_and_version_with_0) {
  const auto help = parse({"--help"});
  EXPECT_EQ(help.exit, 0);
  EXPECT_NE(help.out.find("--data-dir"), std::string::npos);
  EXPECT_NE(help.out.find("TROUPE_DATA_DIR"), std::string::npos);
  const auto version = parse({"--version"});
  EXPECT_EQ(version.exit, 0);
  EXPECT_NE(version.out.find("0.1.0"), std::string::npos);
}

TEST(flags, of_all_daemons_have_their_defaults) {
  ::setenv("TROUPE_DATA_DIR", "/tmp/some-data", 1);
  const auto p = parse({});
  EXPECT_EQ(p.common.name, "test-0");
  EXPECT_EQ(p.common.data_dir, "/tmp/some-data");
  EXPECT_EQ(run_folder(p.common), "/tmp/some-data/run");
  EXPECT_EQ(run_folder(parse({"--run-dir", "/tmp/r"}).common), "/tmp/r");
  ::unsetenv("TROUPE_DATA_DIR");
}

// -- process ------------------------------------------------------------------------------------------------------

TEST_F(daemon_test, service_manager_is_told_over_its_socket) {
  const auto path = (folder_ / "notify").string();
  const int receiver = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  ASSERT_EQ(::bind(receiver, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_TRUE(notify_service("READY=1")) << "nothing to do without a service manager";
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  EXPECT_TRUE(notify_service("READY=1"));
  std::array<char, 64> text{};
  EXPECT_EQ(::recv(receiver, text.data(), text.size(), MSG_DONTWAIT), 7);
  EXPECT_STREQ(text.data(), "READY=1");
  ::setenv("NOTIFY_SOCKET", (path + "-gone").c_str(), 1);
  EXPECT_FALSE(notify_service("READY=1"));
  ::unsetenv("NOTIFY_SOCKET");
  ::close(receiver);
}

TEST(process, knows_its_resident_set_and_name) {
  const auto before = resident_set_bytes();
  EXPECT_GT(before, 100'000U);
  constexpr std::size_t bytes = 64 << 20;
  std::vector<char> touched(bytes, 1);
  EXPECT_GT(resident_set_bytes() + touched.back(), before + bytes / 2);
  EXPECT_EQ(exit_code(in_child([] {
              set_process_name("troupe-expert-0-with-a-long-name");
              std::string name;
              std::ifstream("/proc/self/comm") >> name;
              return name == "troupe-expert-0" ? 0 : 1;
            })),
            0);
}

TEST(process, duties_are_of_the_calling_thread_and_those_it_starts) {
  const auto niceness = [] { return ::getpriority(PRIO_PROCESS, 0); };
  const int before = niceness();
  int background = 0;
  int started_by_it = 0;
  std::thread([&] {
    take_duty(thread_duty::background);
    background = niceness();
    std::thread([&] { started_by_it = niceness(); }).join();
  }).join();
  EXPECT_EQ(background, std::min(before + 5, 19));
  EXPECT_EQ(started_by_it, background);
  for (const auto duty : {thread_duty::messages, thread_duty::computing}) {
    take_duty(duty);
    EXPECT_EQ(niceness(), before);
  }
}

}  // namespace
}  // namespace troupe::daemon
