// Cluster files: what they say, what wins, and everything that can be wrong with one.
#include "cli/cluster_file.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>

#include "cli/machines.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class cluster_files : public testing::Test {
 protected:
  cluster_files() { add_cluster_options(app, model, options); }
  ~cluster_files() override { fs::remove(path); }

  cluster_file read(const std::string& text) {
    std::ofstream{path} << text;
    auto file = read_cluster_file(path);
    EXPECT_TRUE(file) << file.error().message;
    return file.value_or(cluster_file{});
  }
  // What is wrong with the text, as people see it but for the path.
  std::vector<std::string> wrong(const std::string& text) {
    auto file = read(text);
    static_cast<void>(apply_settings(file, app));
    std::vector<std::string> shown;
    for (const auto& problem : file.problems) shown.push_back(to_string(problem, "f"));
    return shown;
  }

  fs::path path = fs::temp_directory_path() / ("cluster-" + std::to_string(::getpid()) + ".yaml");
  CLI::App app;
  fs::path model;
  cluster_options options;
};

TEST_F(cluster_files, settings_go_where_flags_would_put_them) {
  auto file = read(
      "model: models/tiny\nreplication: 2\nkv_memory: 1GiB\nprune_window: 90s\npolicies: [add, prune]\n"
      "pin_streams: true\nno_auth: false\n");
  const auto origins = apply_settings(file, app);
  ASSERT_TRUE(file.problems.empty()) << to_string(file.problems.front(), path);
  EXPECT_EQ(model, path.parent_path() / "models/tiny") << "relative to the file";
  EXPECT_EQ(options.replication, 2U);
  EXPECT_EQ(options.kv_memory, 1U << 30U);
  EXPECT_EQ(options.prune_window, std::chrono::seconds(90));
  EXPECT_EQ(options.policies, "add,prune");
  EXPECT_TRUE(options.pin_streams);
  EXPECT_FALSE(options.no_auth);
  EXPECT_EQ(origins.at("replication"), (setting_origin{"file", path.string() + ":2"}));
}

TEST_F(cluster_files, flags_win_over_variables_and_variables_over_the_file) {
  app.get_option("--replication")->envname("TROUPE_TEST_REPLICATION");
  app.get_option("--routers")->envname("TROUPE_TEST_ROUTERS");
  ::setenv("TROUPE_TEST_REPLICATION", "3", 1);
  ::setenv("TROUPE_TEST_ROUTERS", "4", 1);
  app.parse("--routers 5");
  auto file = read("replication: 2\nrouters: 2\nslots: 9\n");
  const auto origins = apply_settings(file, app);
  ::unsetenv("TROUPE_TEST_REPLICATION");
  ::unsetenv("TROUPE_TEST_ROUTERS");
  EXPECT_EQ(options.routers, 5U);
  EXPECT_EQ(options.replication, 3U);
  EXPECT_EQ(options.slots, 9U);
  EXPECT_EQ(origins.at("routers"), (setting_origin{"flag", "--routers"}));
  EXPECT_EQ(origins.at("replication"), (setting_origin{"environment", "TROUPE_TEST_REPLICATION"}));
  EXPECT_EQ(origins.at("slots").kind, "file");
}

TEST_F(cluster_files, all_that_is_wrong_is_told_at_once_with_its_line) {
  EXPECT_THAT(wrong("replicatoin: 2\n"
                    "dtype: f64\n"
                    "routers: 0\n"
                    "prune_window: 90\n"
                    "routers: 2\n"
                    "slots: {a: 1}\n"
                    "port: 99999\n"
                    "machines:\n"
                    "  - {adress: 10.0.0.1}\n"
                    "  - 10.0.0.2\n"
                    "  - {name: c}\n"),
              ElementsAre("f:1: replicatoin: unknown key; did you mean replication?", StartsWith("f:2: dtype: "),
                          StartsWith("f:3: routers: "), HasSubstr("f:4: prune_window: 90 has no unit; write e.g. 90s"),
                          "f:5: routers: is there twice", "f:6: slots: needs a value",
                          "f:7: port: needs a number from 1024 to 64000",
                          HasSubstr("f:9: adress: unknown key of a machine; did you mean address?"),
                          HasSubstr("f:10: machines: one of them is written {address: HOST}"),
                          HasSubstr("f:11: machines: one of them has no address")));
  EXPECT_THAT(wrong("model: [\n"), ElementsAre(StartsWith("f:")));
  EXPECT_THAT(wrong("just a text\n"), ElementsAre(HasSubstr("list of keys and values")));
  EXPECT_THAT(wrong("machines: everywhere\n"), ElementsAre(HasSubstr("or the word slurm")));
  EXPECT_TRUE(wrong("# nothing\n").empty());
  EXPECT_EQ(read_cluster_file("/no/such.yaml").error().code, errc::not_found);
}

TEST_F(cluster_files, processes_are_spread_over_the_machines) {
  auto file = read(
      "ssh: ssh -p 2222\nmachines:\n  - address: localhost\n  - {address: 10.0.0.2, ssh: ann@b}\n"
      "  - {name: c, address: 10.0.0.3, zone: rack}\n");
  ASSERT_TRUE(file.problems.empty());
  options.routers = 2;
  auto shares = share_out(file, options, false);
  ASSERT_TRUE(shares) << shares.error().message;
  ASSERT_EQ(shares->size(), 3U);
  EXPECT_EQ((*shares)[0].where.address, "127.0.0.1");
  EXPECT_FALSE((*shares)[0].where.is_remote());
  EXPECT_THAT((*shares)[1].where.shell,
              ElementsAre("ssh", "-p", "2222", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "ann@b"));
  EXPECT_EQ((*shares)[2].where.shell.back(), "10.0.0.3");
  EXPECT_EQ((*shares)[2].zone, "rack");
  EXPECT_EQ(options.expert_nodes, 3U) << "one on each";
  EXPECT_EQ(options.transport, "tcp");
  EXPECT_EQ((*shares)[0].routers + (*shares)[1].routers, 2U);
  options.expert_nodes = 5;
  shares = share_out(file, options, true);
  EXPECT_EQ((*shares)[0].expert_nodes, 2U);
  EXPECT_EQ((*shares)[2].expert_nodes, 1U);
  file.machines[1].expert_nodes = 4;
  shares = share_out(file, options, false);
  EXPECT_EQ((*shares)[0].expert_nodes, 0U);
  EXPECT_EQ(options.expert_nodes, 4U);
}

TEST_F(cluster_files, slurm_needs_a_job) {
  auto file = read("machines: slurm\n");
  ::unsetenv("SLURM_JOB_ID");
  const auto shares = share_out(file, options, false);
  ASSERT_FALSE(shares);
  EXPECT_THAT(shares.error().message, HasSubstr("inside salloc or sbatch"));
}

TEST(cluster_settings, every_default_is_what_a_file_would_say) {
  for (const auto& one : list_settings({}, {})) {
    CLI::App app;
    fs::path model;
    cluster_options options;
    add_cluster_options(app, model, options);
    if (one.value.empty()) continue;
    auto* option = app.get_option("--" + option_name(one.key));
    option->add_result(one.value);
    EXPECT_NO_THROW(option->run_callback()) << one.key;
    EXPECT_EQ(options, cluster_options{}) << one.key << ": " << one.value;
    EXPECT_FALSE(one.help.empty()) << one.key;
  }
}

}  // namespace
}  // namespace troupe::cli
