// The whole program in this process: what it prints, and its exit status.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "cli/application.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

struct outcome {
  exit_code code{};
  std::string out;
  std::string err;
};

outcome troupe(const std::vector<const char*>& arguments) {
  std::vector<const char*> words{"troupe"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  const exit_code code = run_command_line(static_cast<int>(words.size()), words.data());
  return {code, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr()};
}

// An empty data folder for every test.
class command_line : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "troupe-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    ::setenv("TROUPE_DATA_DIR", (folder_ / "data").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("TROUPE_DATA_DIR");
    fs::remove_all(folder_);
  }
  fs::path folder_;
};

TEST_F(command_line, help_shows_examples_before_options) {
  const auto shown = troupe({"up", "--help"});
  EXPECT_EQ(shown.code, exit_code::ok);
  EXPECT_LT(shown.out.find("Examples:"), shown.out.find("--expert-nodes"));
  EXPECT_THAT(shown.out, HasSubstr("TROUPE_EXPERT_NODES"));
}

std::vector<std::string> next_words(std::initializer_list<const char*> line) {
  std::vector<const char*> words{"completion", "words", "--"};
  words.insert(words.end(), line);
  const auto shown = troupe(words);
  EXPECT_EQ(shown.code, exit_code::ok) << shown.err;
  EXPECT_EQ(shown.err, "");
  std::istringstream lines{shown.out};
  std::vector<std::string> next;
  for (std::string text; std::getline(lines, text);) next.push_back(text.substr(0, text.find('\t')));
  return next;
}

TEST_F(command_line, completes_verbs_options_and_values) {
  using testing::Contains;
  using testing::ElementsAre;
  using testing::Not;
  EXPECT_THAT(next_words({"pl"}), ElementsAre("placement"));
  EXPECT_THAT(next_words({""}), Contains("completion"));
  EXPECT_THAT(next_words({"node", ""}), ElementsAre("list", "show", "drain", "undrain", "remove"));
  EXPECT_THAT(next_words({"completion", ""}), Not(Contains("words"))) << "it is not for typing";
  EXPECT_THAT(next_words({"up", "--expert"}), ElementsAre("--expert-nodes"));
  EXPECT_THAT(next_words({"status", "--da"}), ElementsAre("--data-dir")) << "every verb has it";
  EXPECT_THAT(next_words({"status", "-o", ""}), ElementsAre("table", "json", "yaml", "wide", "name"));
  EXPECT_THAT(next_words({"status", "--output", "=", "j"}), ElementsAre("json")) << "as bash cuts it";
  EXPECT_THAT(next_words({"--data-dir", "node", "node", "dr"}), ElementsAre("drain")) << "a value is no verb";
}

TEST_F(command_line, completes_names_without_a_word_when_no_cluster_runs) {
  EXPECT_THAT(next_words({"node", "drain", ""}), testing::IsEmpty());
  EXPECT_THAT(next_words({"expert", "migrate", "0/1", "--to", ""}), testing::IsEmpty());
  EXPECT_THAT(next_words({"up", "--model", ""}), testing::IsEmpty()) << "the shell knows files";
}

TEST_F(command_line, unknown_verbs_get_near_misses) {
  const auto shown = troupe({"stauts"});
  EXPECT_EQ(shown.code, exit_code::usage);
  EXPECT_EQ(shown.out, "");
  EXPECT_EQ(shown.err, "error: unknown verb 'stauts'; did you mean status?\n");
  EXPECT_THAT(troupe({"node", "lst"}).err, HasSubstr("unknown verb 'node lst'; did you mean list?"));
  EXPECT_THAT(troupe({"-o", "json", "expert", "shwo"}).err, HasSubstr("did you mean show?"));
}

TEST_F(command_line, a_noun_alone_asks_for_its_verb) {
  const auto shown = troupe({"node"});
  EXPECT_EQ(shown.code, exit_code::usage);
  EXPECT_THAT(shown.err, StartsWith("error: node needs a verb"));
  EXPECT_EQ(troupe({}).code, exit_code::usage);
}

TEST_F(command_line, unknown_options_get_near_misses) {
  const auto shown = troupe({"up", "--modle", "/x"});
  EXPECT_EQ(shown.code, exit_code::usage);
  EXPECT_THAT(shown.err, HasSubstr("unknown option --modle; did you mean --model"));
}

TEST_F(command_line, values_out_of_range_are_usage_errors) {
  EXPECT_EQ(troupe({"up", "--model", "/x", "--expert-nodes", "0"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up", "--model", "/x", "--dtype", "f64"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up", "--model", "/x", "--timeout", "5 parsecs"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up", "--model", "/x", "--replication", "5"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"status", "-o", "xml"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up", "--model", "/x", "--policies", "add,shrink"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"up", "--model", "/x", "--explore-bias", "0.1", "--route-groups", "8"}).code, exit_code::usage);
  for (const char* count : {"0", "-1", "65", "many"})
    EXPECT_EQ(troupe({"expert", "replicate", "0/0", "--count", count}).code, exit_code::usage) << count;
  EXPECT_EQ(troupe({"refresh", "schedule", "--every", "10ms"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"refresh", "schedule", "--every", "1m", "--max-moves", "10001"}).code, exit_code::usage);
}

TEST_F(command_line, the_defaults_are_a_cluster_file) {
  const auto shown = troupe({"config", "defaults"});
  EXPECT_EQ(shown.code, exit_code::ok) << shown.err;
  const auto file = (folder_ / "cluster.yaml").string();
  std::ofstream{file} << shown.out;
  const auto checked =
      troupe({"config", "check", "-f", file.c_str(), "--model", TROUPE_SOURCE_DIR "/tests/golden/dev/mixtral"});
  EXPECT_EQ(checked.code, exit_code::ok) << checked.err;
  EXPECT_EQ(troupe({"config", "check", "-f", file.c_str()}).code, exit_code::failed) << "no model";
}

TEST_F(command_line, a_cluster_file_is_checked_as_a_whole) {
  const auto file = (folder_ / "cluster.yaml").string();
  std::ofstream{file} << "model: nowhere\nreplicatoin: 2\ndtype: f64\n";
  const auto checked = troupe({"config", "check", "-f", file.c_str()});
  EXPECT_EQ(checked.code, exit_code::failed);
  EXPECT_THAT(checked.err, HasSubstr("error: " + file + ":2: replicatoin: unknown key; did you mean replication?"));
  EXPECT_THAT(checked.err, HasSubstr(":3: dtype: "));
  EXPECT_THAT(checked.err, HasSubstr((folder_ / "nowhere").string())) << "relative to the file";
  EXPECT_EQ(troupe({"up", "-f", file.c_str()}).code, exit_code::usage);
  EXPECT_EQ(troupe({"config", "check", "-f", "/no/such.yaml"}).code, exit_code::failed);
}

TEST_F(command_line, settings_are_shown_with_where_they_come_from) {
  const auto file = (folder_ / "cluster.yaml").string();
  std::ofstream{file} << "replication: 2\nrouters: 2\n";
  ::setenv("TROUPE_ROUTERS", "3", 1);
  const auto shown = troupe({"config", "show", "--origin", "-f", file.c_str(), "--slots", "9", "-o", "json"});
  ::unsetenv("TROUPE_ROUTERS");
  ASSERT_EQ(shown.code, exit_code::ok) << shown.err;
  std::map<std::string, std::string> origins;
  const auto document = nlohmann::json::parse(shown.out);
  for (const auto& item : document.at("items"))
    origins[item.at("key")] = item.at("value").get<std::string>() + " " + item.at("origin").get<std::string>();
  EXPECT_EQ(origins.at("replication"), "2 file");
  EXPECT_EQ(origins.at("routers"), "3 environment");
  EXPECT_EQ(origins.at("slots"), "9 flag");
  EXPECT_EQ(origins.at("prune_window"), "24h default");
}

TEST_F(command_line, no_cluster_is_unreachable) {
  for (const auto& verb : std::vector<std::vector<const char*>>{{"status"}, {"node", "list"}, {"expert", "list"}}) {
    const auto shown = verb.size() == 1 ? troupe({verb[0]}) : troupe({verb[0], verb[1]});
    EXPECT_EQ(shown.code, exit_code::unreachable);
    EXPECT_EQ(shown.out, "");
    EXPECT_THAT(shown.err, StartsWith("error: no cluster in " + (folder_ / "data").string() + ";"));
  }
}

TEST_F(command_line, stopping_nothing_is_fine) { EXPECT_EQ(troupe({"down"}).code, exit_code::ok); }

TEST_F(command_line, a_model_folder_that_is_none_starts_nothing) {
  const auto missing = troupe({"up", "--model", "/no/such/folder", "--detach"});
  EXPECT_EQ(missing.code, exit_code::failed);
  EXPECT_THAT(missing.err, HasSubstr("/no/such/folder"));
  const auto empty = troupe({"up", "--model", folder_.c_str(), "--detach"});
  EXPECT_EQ(empty.code, exit_code::failed);
  EXPECT_THAT(empty.err, HasSubstr("config.json"));
  EXPECT_FALSE(fs::exists(folder_ / "data/context.json"));
}

TEST_F(command_line, keys_are_made_once_and_listed) {
  const auto made = troupe({"keys", "gen", "laptop", "-o", "name"});
  EXPECT_EQ(made.code, exit_code::ok) << made.err;
  EXPECT_EQ(made.out, "laptop\n");
  EXPECT_EQ(fs::status(folder_ / "data/keys/laptop.key").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(troupe({"keys", "gen", "laptop"}).code, exit_code::refused);
  EXPECT_EQ(troupe({"keys", "gen", "../evil"}).code, exit_code::usage);
  EXPECT_EQ(troupe({"keys", "list", "-o", "name"}).out, "laptop\n");
  ASSERT_EQ(troupe({"keys", "gen", "desk"}).code, exit_code::ok);
  EXPECT_EQ(troupe({"keys", "revoke", "laptop", "--dry-run"}).code, exit_code::ok);
  const auto revoked = troupe({"keys", "revoke", "laptop", "-o", "name"});
  EXPECT_EQ(revoked.code, exit_code::ok) << revoked.err;
  EXPECT_EQ(revoked.out, "laptop\n");
  EXPECT_FALSE(fs::exists(folder_ / "data/keys/laptop.key"));
  EXPECT_EQ(troupe({"keys", "list", "-o", "name"}).out, "desk\n");
  EXPECT_THAT(troupe({"keys", "revoke", "dsek"}).err, HasSubstr("did you mean desk?"));
}

TEST_F(command_line, doctor_judges_every_line) {
  const auto shown = troupe({"doctor"});
  EXPECT_EQ(shown.code, exit_code::ok) << shown.out;
  for (const char* check : {"processor", "memory", "shared memory", "open files", "keys", "ports", "python client"}) {
    EXPECT_THAT(shown.out, HasSubstr(check));
  }
}

TEST_F(command_line, doctor_fails_on_keys_that_others_can_read) {
  ASSERT_EQ(troupe({"keys", "gen", "laptop"}).code, exit_code::ok);
  fs::permissions(folder_ / "data/keys/laptop.key", fs::perms::group_read, fs::perm_options::add);
  const auto shown = troupe({"doctor"});
  EXPECT_EQ(shown.code, exit_code::failed);
  EXPECT_THAT(shown.out, HasSubstr("chmod 600"));
}

}  // namespace
}  // namespace troupe::cli
