#include "cli/http_client.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "common/http/server.hpp"

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

TEST(http_url, is_read) {
  const auto read = [](std::string_view text) {
    auto url = http_url::parse(text);
    return url ? url->host + " " + url->port + " " + url->target : url.error().message;
  };
  EXPECT_EQ(read("http://127.0.0.1:8000"), "127.0.0.1 8000 /");
  EXPECT_EQ(read("http://a.example/v1/models?x=1"), "a.example 80 /v1/models?x=1");
  EXPECT_EQ(read("http://[::1]:80/"), "::1 80 /");
  EXPECT_EQ(read("http://[::1]"), "::1 80 /");
  for (const auto* wrong : {"", "https://a", "http://", "http://:80", "http://a:", "http://a:b", "http://a:123456",
                            "http://[::1", "http://[::1]80", "ftp://a"}) {
    EXPECT_THAT(read(wrong), HasSubstr("is no address of a router; use http://HOST:PORT")) << wrong;
  }
}

struct http_client : ::testing::Test {
  http_client() {
    std::vector<http::route> routes;
    routes.push_back({"GET", "/fine", 0, [](const http::request&, const std::shared_ptr<http::exchange>& e) {
                        e->reply({.status = 203, .body = "all of it"});
                      }});
    routes.push_back({"GET", "/long", 0, [](const http::request&, const std::shared_ptr<http::exchange>& e) {
                        e->reply({.body = std::string(limits::http_json_body_bytes_max + 1, 'x')});
                      }});
    routes.push_back({"POST", "/pieces", 1000, [](const http::request& r, const std::shared_ptr<http::exchange>& e) {
                        const auto stream = e->begin_stream({});
                        for (char letter : r.body) stream->write(std::string(3, letter));
                        stream->finish();
                      }});
    const auto park = [this](const http::request&, const std::shared_ptr<http::exchange>& e) {
      const std::lock_guard lock{parking_};
      parked_.push_back(e);
      has_parked_ = true;
    };
    routes.push_back({"GET", "/park", 0, park});
    routes.push_back({"POST", "/park", 1000, park});
    server_ = std::move(*http::server::start({}, std::move(routes)));
  }

  std::string at(const std::string& path) const { return server_->url() + path; }

  std::mutex parking_;
  std::vector<std::shared_ptr<http::exchange>> parked_;
  std::atomic<bool> has_parked_{false};
  std::unique_ptr<http::server> server_;
};

TEST_F(http_client, gets_status_and_body) {
  const auto answer = http_get(at("/fine"), 20s);
  ASSERT_TRUE(answer) << answer.error().message;
  EXPECT_EQ(answer->status, 203U);
  EXPECT_EQ(answer->body, "all of it");
  EXPECT_EQ(http_get(at("/nowhere"), 20s)->status, 404U);
}

TEST_F(http_client, says_what_went_wrong) {
  EXPECT_EQ(http_get("nonsense", 20s).error().code, errc::invalid_request);
  EXPECT_EQ(http_get(at("/long"), 20s).error().code, errc::too_large);
  EXPECT_EQ(http_get(at("/park"), 50ms).error().code, errc::timeout);
  const auto url = at("/fine");
  server_->stop(0ms);
  const auto refused = http_get(url, 20s);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::unavailable);
  EXPECT_THAT(refused.error().message, HasSubstr(url + " does not answer: "));
}

TEST_F(http_client, posts_and_hands_the_answer_on) {
  std::string all;
  const auto status = http_post(
      at("/pieces"), "abc",
      [&](std::string_view piece) {
        all += piece;
        return true;
      },
      [] { return true; }, 20s);
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(*status, 200U);
  EXPECT_EQ(all, "aaabbbccc");
}

TEST_F(http_client, ends_when_nobody_wants_more) {
  const auto keep = [](std::string_view) { return true; };
  const auto given_up = http_post(
      at("/park"), "{}", keep, [this] { return !has_parked_; }, 20s);
  EXPECT_TRUE(given_up) << given_up.error().message;
  EXPECT_TRUE(has_parked_);
  const auto enough = http_post(
      at("/pieces"), "abc", [](std::string_view) { return false; }, [] { return true; }, 20s);
  EXPECT_TRUE(enough) << enough.error().message;
}

}  // namespace
}  // namespace troupe::cli
