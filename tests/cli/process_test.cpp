#include "cli/process.hpp"

#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

class process_test : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "troupe-process-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] fs::path log() const { return folder_ / "log"; }
  [[nodiscard]] std::string log_text() const {
    std::ifstream file{log()};
    return {std::istreambuf_iterator<char>{file}, {}};
  }

  fs::path folder_;
};

TEST_F(process_test, starts_detached_with_log_and_without_our_variables) {
  ::setenv("TROUPE_DATA_DIR", "/nowhere", 1);
  const std::vector<std::string> command{"/bin/sh", "-c",
                                         "echo \"[$TROUPE_DATA_DIR]\"; echo oops >&2; ls /proc/self/fd | wc -l"};
  const auto process = start_daemon(command, log());
  ::unsetenv("TROUPE_DATA_DIR");
  ASSERT_TRUE(process) << process.error().message;
  std::optional<std::string> how;
  while (!how) how = reap(process->pid);  // ends by itself
  EXPECT_EQ(*how, "exited with status 0");
  // 0, 1, 2 and the one that ls reads the folder by.
  EXPECT_EQ(log_text(), "[]\noops\n4\n");
}

TEST_F(process_test, a_missing_program_is_an_error) {
  const std::vector<std::string> command{"/no/such/program"};
  const auto process = start_daemon(command, log());
  ASSERT_FALSE(process);
  EXPECT_THAT(process.error().message, testing::HasSubstr("/no/such/program"));
}

TEST_F(process_test, tells_a_process_from_another_with_its_pid) {
  const process_identity self = find_process(::getpid()).value();
  EXPECT_TRUE(is_running(self));
  EXPECT_FALSE(is_running({self.pid, self.start_ticks + 1}));
  EXPECT_FALSE(is_running({0, 0}));
}

TEST_F(process_test, stops_politely_then_by_force) {
  const std::vector<std::string> polite{"/bin/sleep", "1000"};
  const std::vector<std::string> stubborn{"/bin/sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.05; done"};
  const auto first = start_daemon(polite, folder_ / "polite");
  const auto second = start_daemon(stubborn, log());
  ASSERT_TRUE(first && second);
  while (log_text() != "ready\n") {
  }
  const auto killed = stop_processes(std::vector{*first, *second}, std::chrono::milliseconds{200});
  EXPECT_THAT(killed, testing::ElementsAre(*second));
  EXPECT_FALSE(is_running(*first));
  EXPECT_FALSE(is_running(*second));
}

TEST_F(process_test, says_which_signal_ended_it) {
  const std::vector<std::string> command{"/bin/sleep", "1000"};
  const auto process = start_daemon(command, log());
  ASSERT_TRUE(process);
  EXPECT_EQ(reap(process->pid), std::nullopt);
  send_signal(*process, SIGKILL);
  std::optional<std::string> how;
  while (!how) how = reap(process->pid);
  EXPECT_EQ(*how, "was killed by signal 9 (Killed)");
}

TEST_F(process_test, last_lines_of_a_log) {
  std::ofstream{log()} << "one\ntwo\nthree\n";
  EXPECT_THAT(last_lines(log(), 2), testing::ElementsAre("two", "three"));
  EXPECT_THAT(last_lines(folder_ / "none", 2), testing::IsEmpty());
}

}  // namespace
}  // namespace troupe::cli
