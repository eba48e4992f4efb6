#include "cli/context.hpp"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

class context_test : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "troupe-context-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  [[nodiscard]] static unsigned mode_of(const fs::path& path) {
    struct stat found {};
    return ::stat(path.c_str(), &found) == 0 ? found.st_mode & 0777U : 0;
  }

  fs::path folder_;
};

TEST_F(context_test, comes_back_as_it_was_saved_and_private) {
  cluster_context saved;
  saved.cluster_id = "id";
  saved.model = "/models/ünïcode";
  saved.options = {.expert_nodes = 5, .replication = 2, .dtype = "bf16", .transport = "tcp", .slots = 9};
  saved.admin = "tcp://127.0.0.1:7402";
  saved.routers = {{"router-0", "ipc:///a", "http://127.0.0.1:1"}};
  saved.server_keys = {{"router-0", "key"}};
  saved.processes = {{"router", "router-0", {4711, 99}, {"/bin/troupe-router", "--name", "router-0"}}};
  saved.origins = {{"slots", {"file", "/c.yaml:3"}}, {"dtype", {"flag", "--dtype"}}};
  saved.machines = {{"a", "10.0.0.1", {}}, {"b", "10.0.0.2", {"ssh", "-p", "22", "b"}}};
  saved.processes.push_back({"expert", "expert-1", {4712, 98}, {"/bin/troupe", "run-remote"}, "b"});
  ASSERT_TRUE(save_context(folder_, saved));
  EXPECT_EQ(mode_of(folder_ / "context.json"), 0600U);
  const auto loaded = load_context(folder_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->cluster_id, saved.cluster_id);
  EXPECT_EQ(loaded->model, saved.model);
  EXPECT_EQ(loaded->options, saved.options);
  EXPECT_EQ(loaded->admin, saved.admin);
  EXPECT_EQ(loaded->server_keys, saved.server_keys);
  EXPECT_EQ(loaded->origins, saved.origins);
  EXPECT_EQ(loaded->machines, saved.machines);
  ASSERT_EQ(loaded->processes.size(), 2U);
  EXPECT_EQ(loaded->processes[1].machine, "b");
  EXPECT_EQ(loaded->processes[0].identity, saved.processes[0].identity);
  EXPECT_EQ(loaded->processes[0].command, saved.processes[0].command);
}

TEST_F(context_test, a_full_disk_is_named) {
  fs::create_symlink("/dev/full", folder_ / "context.json.tmp");
  const auto saved = save_context(folder_, {});
  ASSERT_FALSE(saved);
  EXPECT_THAT(saved.error().message, testing::HasSubstr("No space left on device"));
  EXPECT_THAT(saved.error().message, testing::HasSubstr("free space on that disk"));
}

TEST_F(context_test, a_missing_one_says_how_to_start_a_cluster) {
  const auto loaded = load_context(folder_);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, errc::unavailable);
  EXPECT_THAT(loaded.error().message, testing::HasSubstr("troupe up --model"));
}

TEST_F(context_test, a_damaged_one_is_refused) {
  for (const char* text : {"", "{", "[]", "{\"cluster_id\": 5}"}) {
    std::ofstream{folder_ / "context.json"} << text;
    const auto loaded = load_context(folder_);
    ASSERT_FALSE(loaded) << text;
    EXPECT_EQ(loaded.error().code, errc::corrupt) << text;
  }
}

TEST_F(context_test, folders_are_made_private) {
  const fs::path data = folder_ / "deep/down/data";
  ASSERT_TRUE(make_data_dir(data));
  for (const auto& path : {data, data / "keys", data / "log"}) EXPECT_EQ(mode_of(path), 0700U) << path;
  ::chmod(data.c_str(), 0755);
  ASSERT_TRUE(make_data_dir(data));
  EXPECT_EQ(mode_of(data), 0700U) << "made private again";
}

TEST_F(context_test, a_file_in_the_way_is_named) {
  std::ofstream{folder_ / "file"} << "x";
  const auto made = make_data_dir(folder_ / "file");
  ASSERT_FALSE(made);
  EXPECT_THAT(made.error().message, testing::HasSubstr("file is not a folder"));
}

TEST_F(context_test, dead_processes_do_not_count) {
  cluster_context context;
  const auto self = find_process(::getpid()).value();
  context.processes = {{"router", "alive", self, {}}, {"expert", "reused-pid", {self.pid, self.start_ticks + 5}, {}}};
  const auto running = running_processes(context);
  ASSERT_EQ(running.size(), 1U);
  EXPECT_EQ(running[0].name, "alive");
}

}  // namespace
}  // namespace troupe::cli
