// Key files, the list of authorised keys, and the ZAP handler that refuses everybody else (faults.md H4).
#include "common/wire/keys.hpp"

#include <gtest/gtest.h>

#include <fstream>

#include "proto/router_expert.pb.h"
#include "wire_fixture.hpp"

namespace troupe::wire {
namespace {

namespace fs = std::filesystem;

void write(const fs::path& file, const std::string& text, fs::perms mode) {
  std::ofstream(file) << text;
  fs::permissions(file, mode);
}

TEST(keys, survive_saving_and_loading) {
  temporary_folder folder;
  auto keys = must(make_key_pair());
  must(save_key_pair(folder.path(), "expert-0", keys));
  auto loaded = must(load_key_pair(folder.path() / "expert-0.key"));
  EXPECT_EQ(loaded.public_key, keys.public_key);
  EXPECT_EQ(loaded.secret_key, keys.secret_key);
  EXPECT_EQ(must(load_public_key(folder.path() / "expert-0.pub")), keys.public_key);
  EXPECT_EQ(fs::status(folder.path() / "expert-0.key").permissions(), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(save_key_pair(folder.path(), "expert-0", keys).error().code, errc::conflict);
}

TEST(keys, are_refused_when_others_can_read_them) {
  temporary_folder folder;
  must(save_key_pair(folder.path(), "a", must(make_key_pair())));
  for (const auto open : {fs::perms::group_read, fs::perms::others_read}) {
    fs::permissions(folder.path() / "a.key", open, fs::perm_options::add);
    const auto refused = load_key_pair(folder.path() / "a.key");
    EXPECT_EQ(refused.error().code, errc::permission_denied);
    EXPECT_NE(refused.error().message.find("chmod 0600"), std::string::npos);
    fs::permissions(folder.path() / "a.key", open, fs::perm_options::remove);
  }
  EXPECT_TRUE(load_key_pair(folder.path() / "a.key"));
  EXPECT_EQ(load_key_pair(folder.path() / "b.key").error().code, errc::not_found);
}

TEST(keys, that_are_damaged_are_refused_without_quoting_the_secret) {
  temporary_folder folder;
  const auto keys = must(make_key_pair());
  const auto other = must(make_key_pair());
  const auto file = folder.path() / "x.key";
  for (const auto& text : {"secret " + keys.secret_key, "public " + other.public_key + "\nsecret " + keys.secret_key,
                           "public " + keys.public_key, "secret " + keys.secret_key + "x", keys.secret_key + "\n",
                           std::string("\x01\x02\xff"), std::string{}}) {
    write(file, text, fs::perms::owner_read | fs::perms::owner_write);
    const auto refused = load_key_pair(file);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().code, errc::invalid_request);
    EXPECT_EQ(refused.error().message.find(keys.secret_key), std::string::npos);
  }
}

TEST(authorized, list_is_parsed_with_line_numbers_in_errors) {
  const auto key = must(make_key_pair()).public_key;
  const auto parsed = must(parse_authorized("# comment\n\n" + key + " expert expert-0\n"));
  ASSERT_EQ(parsed.size(), 1U);
  EXPECT_EQ(user_id_of(parsed[0]), "expert:expert-0");
  EXPECT_EQ(role_of_user("expert:expert-0"), peer_role::expert);
  EXPECT_FALSE(role_of_user("nonsense"));
  for (const auto& bad :
       {key + " king expert-0", key + " expert", std::string("short expert x"), key + " expert Bad_Name"}) {
    const auto refused = parse_authorized("\n" + bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_NE(refused.error().message.find("line 2"), std::string::npos);
  }
}

TEST(authorized, list_grows_without_doubles) {
  temporary_folder folder;
  const auto file = folder.path() / "authorized";
  const authorized_key first{must(make_key_pair()).public_key, peer_role::client, "client"};
  const authorized_key second{must(make_key_pair()).public_key, peer_role::router, "router-0"};
  must(add_authorized(file, first));
  must(add_authorized(file, second));
  must(add_authorized(file, first));
  EXPECT_EQ(must(load_authorized(file)), (std::vector{first, second}));
  auto changed = first;
  changed.role = peer_role::admin;
  EXPECT_EQ(add_authorized(file, changed).error().code, errc::conflict);
  fs::permissions(file, fs::perms::others_write, fs::perm_options::add);
  EXPECT_EQ(load_authorized(file).error().code, errc::permission_denied);
}

// A CURVE server for routers, and clients that try their keys on it.
class zap : public testing::Test {
 protected:
  void SetUp() override {
    must(add_authorized(file_, {router_keys_.public_key, peer_role::router, "router-0"}));
    must(add_authorized(file_, {expert_keys_.public_key, peer_role::expert, "expert-0"}));
    handler_ = must(zap_handler::start(ctx_, file_, [this](const zap_refusal& refused) {
      const std::lock_guard lock(mutex_);
      refused_.push_back(refused);
    }));
    socket_options options;
    const std::array allowed{peer_role::router};
    options.server = curve_server{server_keys_.secret_key, zap_domain(allowed)};
    server_.emplace(must(socket::open(ctx_, socket_kind::router, options)));
    address_ = must(server_->bind("tcp://127.0.0.1:0"));
  }

  // What the handshake comes to.
  link_event_kind attempt(const key_pair& keys) {
    socket_options options;
    options.client = curve_client{server_keys_.public_key, keys.public_key, keys.secret_key};
    client_.emplace(must(socket::open(ctx_, socket_kind::dealer, options)));
    auto monitor = must(link_monitor::watch(*client_));
    must(client_->connect(address_));
    poller waiting;
    waiting.add(monitor.events());
    for (const deadline until; !until.passed(); waiting.wait(until.left())) {
      while (auto event = monitor.next()) {
        if (event->kind == link_event_kind::ready || event->kind == link_event_kind::refused) return event->kind;
      }
    }
    return link_event_kind::connect_failed;
  }

  temporary_folder folder_;
  fs::path file_ = folder_.path() / "authorized";
  key_pair server_keys_ = must(make_key_pair());
  key_pair router_keys_ = must(make_key_pair());
  key_pair expert_keys_ = must(make_key_pair());
  std::mutex mutex_;
  std::vector<zap_refusal> refused_;
  std::shared_ptr<context> ctx_ = must(context::make());
  std::unique_ptr<zap_handler> handler_;
  std::optional<socket> server_;
  std::optional<socket> client_;
  std::string address_;
};

TEST_F(zap, lets_an_authorised_key_in_and_says_whose_it_is) {
  ASSERT_EQ(attempt(router_keys_), link_event_kind::ready);
  proto::RouterToExpert hello;
  hello.mutable_hello();
  send_when_connected(*client_, hello);
  const auto got = receive_within(*server_);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->user_id, "router:router-0");
  EXPECT_EQ(got->peer_address, "127.0.0.1");
  EXPECT_EQ(handler_->refusals(), 0U);
}

TEST_F(zap, H4_unknown_key_is_refused_and_counted_with_its_address) {
  ASSERT_EQ(attempt(must(make_key_pair())), link_event_kind::refused);
  // The handler answers before it counts.
  ASSERT_TRUE(eventually([&] {
    const std::lock_guard lock(mutex_);
    return !refused_.empty();
  }));
  EXPECT_GE(handler_->refusals(), 1U);
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(refused_.front().address, "127.0.0.1");
  EXPECT_EQ(refused_.front().reason, "unknown key");
}

TEST_F(zap, H5_known_key_of_another_role_is_refused) {
  ASSERT_EQ(attempt(expert_keys_), link_event_kind::refused);
  const std::lock_guard lock(mutex_);
  EXPECT_NE(refused_.front().reason.find("role expert"), std::string::npos);
}

TEST_F(zap, takes_up_changes_of_the_list) {
  const auto late = must(make_key_pair());
  ASSERT_EQ(attempt(late), link_event_kind::refused);
  must(add_authorized(file_, {late.public_key, peer_role::router, "router-1"}));
  EXPECT_EQ(attempt(late), link_event_kind::ready);
  write(file_, "# nobody\n", fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(attempt(late), link_event_kind::refused);
}

TEST_F(zap, passes_its_self_test) {
  const auto tested = handler_->self_test();
  EXPECT_TRUE(tested) << tested.error().message;
  EXPECT_EQ(handler_->refusals(), 0U) << "the self-test is no refusal of a peer";
}

TEST(zap_alone, needs_a_readable_list_and_a_domain) {
  temporary_folder folder;
  auto ctx = must(context::make());
  EXPECT_EQ(zap_handler::start(ctx, folder.path() / "none", {}).error().code, errc::not_found);
  socket_options options;
  options.server = curve_server{must(make_key_pair()).secret_key, ""};
  EXPECT_EQ(socket::open(ctx, socket_kind::router, options).error().code, errc::invalid_request);
}

}  // namespace
}  // namespace troupe::wire
