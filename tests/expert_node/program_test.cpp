// The program troupe-expert as a process, against a coordinator that the test plays.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "model/checkpoint.hpp"
#include "tests/common/fake_coordinator.hpp"
#include "tests/model/family_models.hpp"

extern char** environ;

namespace troupe::expert {
namespace {

using wire::eventually;

// A child that is killed with the test.
class child_process {
 public:
  child_process(std::vector<std::string> words, const std::string& errors) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    std::vector<char*> arguments;
    for (auto& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&pid_, arguments[0], &actions, nullptr, arguments.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~child_process() {
    if (pid_ == 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void signal(int number) const { ::kill(pid_, number); }

  // Exit code, or -1 while it runs; 128 + number when a signal ended it.
  int exit_code() {
    if (pid_ == 0) return code_;
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return -1;
    pid_ = 0;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return code_;
  }

  // Pages in memory that belong to it, shared ones included.
  [[nodiscard]] std::uint64_t resident_bytes() const {
    std::ifstream file{"/proc/" + std::to_string(pid_) + "/statm"};
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    file >> total >> resident;
    return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  }

 private:
  pid_t pid_{};
  int code_{};
};

class program_test : public ::testing::Test {
 protected:
  std::vector<std::string> command(const std::filesystem::path& model) {
    return {TROUPE_BINARY_DIR "/bin/troupe-expert",
            "--name",
            "expert-0",
            "--data-dir",
            folder.path().string(),
            "--run-dir",
            folder.path().string(),
            "--model",
            model.string(),
            "--slots",
            "12",
            "--threads",
            "1"};
  }

  std::unique_ptr<child_process> start(std::vector<std::string> words) {
    return std::make_unique<child_process>(std::move(words), (folder.path() / "errors").string());
  }

  std::string errors() const {
    std::ostringstream text;
    text << std::ifstream{folder.path() / "errors"}.rdbuf();
    return text.str();
  }

  void order_load(std::uint32_t slot, const expert_id& expert) {
    proto::CoordinatorToNode message;
    auto& load = *message.mutable_load();
    load.set_term(1);
    load.set_command(++commands);
    load.set_slot(slot);
    load.set_layer(expert.layer.value);
    load.set_expert(expert.index);
    load.set_version(1);
    coordinator.send(message);
  }

  // Bytes that the newest inventory reports as ready.
  std::pair<std::size_t, std::uint64_t> ready() {
    const auto inventories = coordinator.got(proto::NodeToCoordinator::kInventory);
    std::pair<std::size_t, std::uint64_t> sum;
    if (inventories.empty()) return sum;
    for (const auto& slot : inventories.back().inventory().slots()) {
      if (slot.state() != proto::READY) continue;
      ++sum.first;
      sum.second += slot.resident_bytes();
    }
    return sum;
  }

  wire::temporary_folder folder;
  node::fake_coordinator coordinator{folder};
  std::uint64_t commands{};
};

const std::filesystem::path small_model = TROUPE_SOURCE_DIR "/tests/golden/dev/mixtral";

TEST_F(program_test, leaves_the_cluster_when_it_is_told_to_stop) {
  auto process = start(command(small_model));
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; })) << errors();
  // One that was not told yet that it is a member has nothing to leave.
  ASSERT_TRUE(eventually([&] { return !coordinator.got(proto::NodeToCoordinator::kInventory).empty(); })) << errors();
  process->signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return process->exit_code() >= 0; }));
  EXPECT_EQ(process->exit_code(), 0) << errors();
  // It may still be on its way when the process has ended.
  EXPECT_TRUE(eventually([&] { return coordinator.got(proto::NodeToCoordinator::kLeave).size() == 1; }));
}

TEST_F(program_test, a_second_one_of_the_same_name_says_who_runs_already) {
  auto first = start(command(small_model));
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; })) << errors();
  auto second = start(command(small_model));
  ASSERT_TRUE(eventually([&] { return second->exit_code() >= 0; }));
  EXPECT_EQ(second->exit_code(), 78);
  EXPECT_NE(errors().find("already running"), std::string::npos) << errors();
}

TEST_F(program_test, usage_errors_end_with_2_and_name_the_flag) {
  for (auto [flag, value] :
       {std::pair{"--memory", "lots"}, {"--dtype", "f16"}, {"--name", "Not Valid"}, {"--device", "cuda:one"}}) {
    auto words = command(small_model);
    words.insert(words.end(), {flag, value});
    auto process = start(std::move(words));
    ASSERT_TRUE(eventually([&] { return process->exit_code() >= 0; }));
    EXPECT_EQ(process->exit_code(), 2) << flag;
    EXPECT_NE(errors().find(flag), std::string::npos) << errors();
  }
}

TEST_F(program_test, a_gpu_that_cannot_be_used_is_refused_with_the_reason) {
  auto words = command(small_model);
  words.insert(words.end(), {"--device", "cuda:99"});  // no machine has that many
  auto process = start(std::move(words));
  ASSERT_TRUE(eventually([&] { return process->exit_code() >= 0; }));
  EXPECT_EQ(process->exit_code(), 1);
  EXPECT_NE(errors().find("cuda:99 cannot be used: "), std::string::npos) << errors();
  EXPECT_NE(errors().find("use --device cpu"), std::string::npos) << errors();
}

TEST_F(program_test, c14_a_folder_without_checkpoint_is_refused) {
  auto process = start(command(folder.path()));
  ASSERT_TRUE(eventually([&] { return process->exit_code() >= 0; }));
  EXPECT_EQ(process->exit_code(), 1);
  EXPECT_NE(errors().find("error: "), std::string::npos);
}

// The promise is 5 % and 64 MiB over the bundles. These are 144 MiB, so that a second copy of them would show.
TEST_F(program_test, its_memory_is_its_bundles_and_little_else) {
  constexpr std::uint32_t experts = 12;
  model::test::temporary_folder large;
  model::test::make_model("mixtral", {.hidden = 1024, .width = 2048, .experts = experts, .top_k = 2, .layers = 1})
      .write(large);
  auto process = start(command(large.path()));
  ASSERT_TRUE(eventually([&] { return coordinator.joins() == 1; })) << errors();
  const auto begin = std::chrono::steady_clock::now();
  for (std::uint32_t expert = 0; expert < experts; ++expert) order_load(expert, {layer_id::of(0), expert});
  std::size_t before = 0;
  while (ready().first < experts) {
    ASSERT_TRUE(eventually([&] { return ready().first > before; })) << errors();
    before = ready().first;
  }
  const std::chrono::duration<double> loading = std::chrono::steady_clock::now() - begin;
  const auto bytes = ready().second;
  EXPECT_GE(bytes, std::uint64_t{experts} * 3 * 1024 * 2048 * 2);
  // Pages of the last bundle's buffer go back a moment after its slot is reported.
  EXPECT_TRUE(eventually([&] { return process->resident_bytes() <= bytes + bytes / 20 + 64 * limits::mib; }))
      << process->resident_bytes() / limits::mib << " MiB resident for " << bytes / limits::mib << " MiB of bundles";
  std::printf("%zu MiB resident for %zu MiB of bundles, loaded in %.2f s\n",
              std::size_t{process->resident_bytes() / limits::mib}, std::size_t{bytes / limits::mib}, loading.count());
}

}  // namespace
}  // namespace troupe::expert
