// Answers that are sent piece by piece (faults.md P13, H13), and API keys (H1).
#include <chrono>
#include <fstream>
#include <future>
#include <memory>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/api_keys.hpp"
#include "common/http/server.hpp"
#include "tests/common/http_client.hpp"

namespace troupe::http {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using troupe::testing::http_client;

constexpr const char* ask = "GET /stream HTTP/1.1\r\nHost: t\r\n\r\n";

class http_streams : public ::testing::Test {
 protected:
  void start(stream_head head = {}) {
    std::vector<route> routes;
    routes.push_back({"GET", "/stream", 0, [this, head](const request&, const std::shared_ptr<exchange>& e) {
                        e->on_cancel([this] { gone_.set_value(); });
                        begun_.set_value(e->begin_stream(head));
                      }});
    routes.push_back({"GET", "/plain", 0, [](const request& r, const std::shared_ptr<exchange>& e) {
                        e->reply({.content_type = "text/plain", .body = r.client});
                      }});
    auto started = server::start({}, std::move(routes));
    ASSERT_TRUE(started) << started.error().message;
    server_ = std::move(*started);
    client_ = std::make_unique<http_client>(server_->port());
  }

  std::shared_ptr<stream> begin(std::string_view request_text = ask) {
    EXPECT_TRUE(client_->send(request_text));
    return begun_.get_future().get();
  }

  [[nodiscard]] bool is_cancelled() { return gone_.get_future().wait_for(20s) == std::future_status::ready; }

  std::promise<std::shared_ptr<stream>> begun_;
  std::promise<void> gone_;
  std::unique_ptr<server> server_;
  std::unique_ptr<http_client> client_;
};

TEST_F(http_streams, send_chunks_in_order_from_any_thread_and_keep_the_connection) {
  start({.headers = {{"X-Accel-Buffering", "no"}}});
  auto out = begin();
  EXPECT_TRUE(out->write("one"));
  const auto head = client_->receive(false);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.field("Transfer-Encoding"), "chunked");
  EXPECT_EQ(head.field("Content-Type"), "text/event-stream");
  EXPECT_EQ(head.field("X-Accel-Buffering"), "no");
  std::thread other([&out] {
    out->write("two");
    out->write("three");
    out->finish();
  });
  EXPECT_EQ(client_->receive_chunks(), "onetwothree");
  other.join();
  EXPECT_FALSE(out->write("late"));
  EXPECT_EQ(client_->call("GET", "/plain").status, 200);
}

TEST_F(http_streams, to_an_old_client_end_with_the_connection) {
  start();
  auto out = begin("GET /stream HTTP/1.0\r\n\r\n");
  out->write("one");
  out->finish();
  const auto head = client_->receive(false);
  EXPECT_EQ(head.field("Transfer-Encoding"), "");
  EXPECT_EQ(client_->receive_rest(), "one");
}

TEST_F(http_streams, a_stream_that_is_dropped_breaks_off) {
  start();
  auto out = begin();
  out->write("half");
  EXPECT_EQ(client_->receive(false).status, 200);
  out.reset();
  EXPECT_EQ(client_->receive_rest(), "4\r\nhalf\r\n");  // no last chunk
}

TEST_F(http_streams, another_answer_is_possible_before_the_first_byte_only) {
  start();
  EXPECT_TRUE(begin()->reply_instead({.status = 503, .body = "{}"}));
  EXPECT_EQ(client_->receive().status, 503);
  begun_ = {};
  auto out = begin();
  out->write("x");
  EXPECT_FALSE(out->reply_instead({.status = 503, .body = {}}));
  out->finish();
  EXPECT_EQ(client_->receive(false).status, 200);
  EXPECT_EQ(client_->receive_chunks(), "x");
}

TEST_F(http_streams, pings_go_out_while_there_is_nothing_to_say) {
  start({.ping = ": ping\n\n", .ping_interval = 10ms});
  auto out = begin();
  EXPECT_EQ(client_->receive(false).status, 200);
  EXPECT_EQ(client_->receive_chunk(), ": ping\n\n");
  EXPECT_EQ(client_->receive_chunk(), ": ping\n\n");
  out->write("data");
  out->finish();
  EXPECT_THAT(client_->receive_chunks(), HasSubstr("data"));
}

TEST_F(http_streams, p13_a_client_that_goes_away_cancels) {
  start();
  auto out = begin();
  out->write("x");
  EXPECT_EQ(client_->receive(false).status, 200);
  client_->close();
  EXPECT_TRUE(is_cancelled());
  while (out->write("x")) std::this_thread::yield();
}

TEST_F(http_streams, h13_a_client_that_does_not_read_is_cut_off) {
  start();
  auto out = begin();
  const std::string piece(64 * 1024, 'x');
  while (out->write(piece)) {
  }
  EXPECT_TRUE(is_cancelled());
}

TEST_F(http_streams, a_finished_stream_cancels_nothing) {
  start();
  auto out = begin();
  out->write("x");
  out->finish();
  EXPECT_EQ(client_->receive(false).status, 200);
  EXPECT_EQ(client_->receive_chunks(), "x");
  server_->stop(0ms);
  EXPECT_EQ(gone_.get_future().wait_for(0s), std::future_status::timeout);
}

TEST_F(http_streams, a_stream_may_outlive_the_server) {
  start();
  auto out = begin();
  server_.reset();
  EXPECT_TRUE(is_cancelled());
  out->write("nobody hears this");
  out->finish();
}

TEST_F(http_streams, stop_lets_a_stream_end) {
  start();
  auto out = begin();
  out->write("one");
  EXPECT_EQ(client_->receive(false).status, 200);
  auto stopped = std::async(std::launch::async, [this] { server_->stop(30s); });
  while (http_client(server_->port()).connected()) std::this_thread::yield();
  out->write("two");
  out->finish();
  EXPECT_EQ(client_->receive_chunks(), "onetwo");
  client_->close();
  EXPECT_EQ(stopped.wait_for(20s), std::future_status::ready);
}

// -- API keys -----------------------------------------------------------------------------------------------------

std::string refusal(std::string_view text) {
  auto keys = api_keys::parse(text);
  EXPECT_FALSE(keys) << text;
  return keys ? "" : keys.error().message;
}

TEST(http_api_keys, are_read_line_by_line) {
  const auto keys = api_keys::parse("# all of them\n\nsk-alice-1 alice  # hers\r\n  sk-nameless \n");
  ASSERT_TRUE(keys) << keys.error().message;
  EXPECT_EQ(keys->size(), 2U);
  EXPECT_EQ(keys->find("sk-alice-1"), "alice");
  EXPECT_EQ(keys->find("sk-nameless"), "key-4");
  for (const auto* wrong : {"", "sk-alice-", "sk-alice-12", "SK-ALICE-1", "alice", "# all of them"}) {
    EXPECT_FALSE(keys->find(wrong)) << wrong;
  }
  EXPECT_THAT(refusal(""), HasSubstr("no key"));
  EXPECT_THAT(refusal("# only a comment"), HasSubstr("no key"));
  EXPECT_THAT(refusal("sk-good-key\nshort"), StartsWith("line 2: "));
  EXPECT_THAT(refusal("sk-secret-key name more"), StartsWith("line 1: "));
  EXPECT_THAT(refusal("sk-secret-k\xc3\xa4y"), ::testing::Not(HasSubstr("secret")));
  EXPECT_EQ(api_keys::open("/nonexistent/keys").error().code, errc::not_found);
}

TEST(http_api_keys, h1_without_the_right_key_there_is_a_401) {
  auto keys = std::make_shared<const api_keys>(*api_keys::parse("sk-alice-1 alice"));
  std::vector<route> routes{{"POST", "/secret", 100, [](const request& r, const std::shared_ptr<exchange>& e) {
                               e->reply({.content_type = "text/plain", .body = "hello " + r.client});
                             }}};
  std::promise<std::string> refused;
  auto guarded = guard(std::move(routes), keys, [&refused](const std::string& client) { refused.set_value(client); });
  auto server = server::start({}, std::move(guarded));
  ASSERT_TRUE(server);
  http_client client((*server)->port());
  EXPECT_EQ(client.call("POST", "/secret", "x", "Authorization: bearer sk-alice-1\r\n").body, "hello alice");
  auto answer = client.call("POST", "/secret", "x");
  EXPECT_EQ(answer.status, 401);
  EXPECT_THAT(answer.body, HasSubstr(R"("type":"authentication_error")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("code":"invalid_api_key")"));
  EXPECT_EQ(answer.field("WWW-Authenticate"), "Bearer");
  EXPECT_EQ(answer.field("x-should-retry"), "false");
  EXPECT_THAT(refused.get_future().get(), StartsWith("127.0.0.1:"));
}

TEST(http_api_keys, h1_wrong_keys_are_refused_in_every_form) {
  auto keys = std::make_shared<const api_keys>(*api_keys::parse("sk-alice-1 alice"));
  std::vector<route> routes{
      {"GET", "/x", 0, [](const request&, const std::shared_ptr<exchange>& e) { e->reply({.body = "{}"}); }}};
  auto server = server::start({}, guard(std::move(routes), keys));
  ASSERT_TRUE(server);
  http_client client((*server)->port());
  for (const auto* header :
       {"", "Authorization: Bearer\r\n", "Authorization: Bearer sk-alice-2\r\n", "Authorization: Basic sk-alice-1\r\n",
        "Authorization: sk-alice-1\r\n", "X-Api-Key: sk-alice-1\r\n", "Authorization: Bearer sk-alice-1x\r\n"}) {
    EXPECT_EQ(client.call("GET", "/x", "", header).status, 401) << header;
  }
  EXPECT_EQ(client.call("GET", "/x", "", "authorization: Bearer sk-alice-1\r\n").status, 200);
}

TEST(http_api_keys, h1_an_address_that_others_reach_needs_keys) {
  for (const auto* here : {"127.0.0.1:8080", "localhost:0", "[::1]:80", "127.1.2.3:1"}) {
    EXPECT_TRUE(check_exposure(here, false, false)) << here;
  }
  for (const auto* open : {"0.0.0.0:8080", "[::]:80", "10.0.0.5:80", "router.example:80"}) {
    EXPECT_EQ(check_exposure(open, false, false).error().code, errc::invalid_request) << open;
    EXPECT_TRUE(check_exposure(open, true, false));
    EXPECT_TRUE(check_exposure(open, false, true));
  }
  EXPECT_THAT(check_exposure("0.0.0.0:1", false, false).error().message, HasSubstr("--api-key-file"));
}

}  // namespace
}  // namespace troupe::http
