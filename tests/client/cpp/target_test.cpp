// Where the C++ client looks for the cluster and its keys.
#include "client/cpp/target.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <troupe/client.hpp>

#include "common/wire/keys.hpp"

namespace troupe::client {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class target_test : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("troupe-target-" + std::to_string(::getpid()));
    fs::create_directories(folder_ / "keys");
    ::setenv("TROUPE_DATA_DIR", (folder_ / "none").c_str(), 1);
  }
  void TearDown() override {
    ::unsetenv("TROUPE_DATA_DIR");
    fs::remove_all(folder_);
  }
  void write_context(const std::string& text) const { std::ofstream(folder_ / "context.json") << text; }
  [[nodiscard]] result<target> find(std::vector<std::string> addresses = {}, const fs::path& key_file = {},
                                    bool with_folder = true) const {
    return resolve({.addresses = std::move(addresses),
                    .data_dir = with_folder ? folder_ : fs::path{},
                    .key_file = key_file,
                    .timeout = std::chrono::seconds{1}});
  }
  fs::path folder_;
};

constexpr auto two_ipc_routers = R"({"cluster_id": "c-1", "client": "ipc:///r0", "routers": [
  {"name": "router-0", "client": "ipc:///r0"}, {"name": "router-1", "client": "ipc:///r1"}]})";

TEST_F(target_test, all_routers_of_the_context_are_used) {
  write_context(two_ipc_routers);
  const auto found = find();
  ASSERT_TRUE(found) << found.error().message;
  ASSERT_EQ(found->routers.size(), 2U);
  EXPECT_EQ(found->routers[1].address, "ipc:///r1");
  EXPECT_FALSE(found->routers[1].keys);
  EXPECT_EQ(found->cluster_id, "c-1");
}

TEST_F(target_test, the_variable_names_the_folder) {
  write_context(two_ipc_routers);
  EXPECT_EQ(find({}, {}, false).error().code, errc::unavailable);
  ::setenv("TROUPE_DATA_DIR", folder_.c_str(), 1);
  EXPECT_TRUE(find({}, {}, false));
}

TEST_F(target_test, addresses_of_another_cluster_do_not_take_its_id) {
  write_context(two_ipc_routers);
  EXPECT_EQ(find({"ipc:///r1"})->cluster_id, "c-1");
  EXPECT_EQ(find({"ipc:///elsewhere"})->cluster_id, "");
}

TEST_F(target_test, damaged_and_empty_contexts_are_errors) {
  for (const auto* text : {"", "[]", "{", "{\"routers\": 3}", "{\"routers\": [{\"client\": 3}]}"}) {
    write_context(text);
    EXPECT_EQ(find().error().code, errc::invalid_request) << text;
  }
  write_context("{}");
  EXPECT_EQ(find().error().code, errc::unavailable);
}

TEST_F(target_test, tcp_takes_our_pair_and_the_routers_key) {
  const auto own = wire::make_key_pair();
  const auto router = wire::make_key_pair();
  ASSERT_TRUE(own && router);
  ASSERT_TRUE(wire::save_key_pair(folder_ / "keys", "client", *own));
  write_context(R"({"cluster_id": "c-1", "routers": [{"name": "router-0", "client": "tcp://10.0.0.5:7400"}],
    "client_key": "keys/client.key", "server_keys": {"router-0": ")" +
                router->public_key + "\"}}");
  const auto key_file = folder_ / "keys" / "client.key";
  // From the context; by address with the context's folder; by address and the key file that lies beside it.
  for (const auto& found : {find(), find({"tcp://10.0.0.5:7400"}), find({"tcp://10.0.0.5:7400"}, key_file, false)}) {
    ASSERT_TRUE(found) << found.error().message;
    ASSERT_TRUE(found->routers.at(0).keys);
    EXPECT_EQ(found->routers[0].keys->server_key, router->public_key);
    EXPECT_EQ(found->routers[0].keys->secret_key, own->secret_key);
  }
}

TEST_F(target_test, a_key_file_may_bring_the_routers_key) {
  auto own = wire::make_key_pair();
  ASSERT_TRUE(own);
  own->server_key = wire::make_key_pair()->public_key;
  ASSERT_TRUE(wire::save_key_pair(folder_ / "keys", "far", *own));
  const auto found = find({"tcp://10.0.0.9:7400"}, folder_ / "keys" / "far.key", false);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->routers.at(0).keys->server_key, own->server_key);
}

TEST_F(target_test, missing_keys_are_asked_for) {
  const auto without = find({"tcp://10.0.0.9:7400"}, {}, false);
  ASSERT_FALSE(without);
  EXPECT_THAT(without.error().message, HasSubstr("needs keys"));
  const auto own = wire::make_key_pair();
  ASSERT_TRUE(own && wire::save_key_pair(folder_ / "keys", "lonely", *own));
  const auto nameless = find({"tcp://10.0.0.9:7400"}, folder_ / "keys" / "lonely.key", false);
  ASSERT_FALSE(nameless);
  EXPECT_THAT(nameless.error().message, HasSubstr("server KEY"));
  EXPECT_FALSE(find({"tcp://10.0.0.9:7400"}, folder_ / "keys" / "absent.key", false));
}

TEST_F(target_test, an_address_is_tcp_or_ipc) { EXPECT_EQ(find({"http://x"}).error().code, errc::invalid_request); }

}  // namespace
}  // namespace troupe::client
