// The HTTP server against a client that misbehaves (faults.md N12, O8, W1, W14, H6), and the metrics text.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/http/errors.hpp"
#include "common/http/metrics.hpp"
#include "common/http/probes.hpp"
#include "common/http/server.hpp"
#include "common/http/target.hpp"
#include "tests/common/http_client.hpp"

namespace troupe::http {
namespace {

using namespace std::chrono_literals;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using troupe::testing::http_client;

class http_server : public ::testing::Test {
 protected:
  http_server() {
    routes_.push_back({"POST", "/echo/{word}", 1000, [](request r, const std::shared_ptr<exchange>& e) {
                         e->reply({.content_type = "text/plain", .body = r.parameter + ":" + r.body});
                       }});
    routes_.push_back({"POST", "/park", 1000, [this](const request&, std::shared_ptr<exchange> e) {
                         e->on_cancel([this] { gone_.set_value(); });
                         parked_.set_value(std::move(e));
                       }});
    routes_.push_back({"GET", "/throw", 0,
                       [](const request&, const std::shared_ptr<exchange>&) { throw std::runtime_error("boom"); }});
    routes_.push_back({"GET", "/drop", 0, [](const request&, const std::shared_ptr<exchange>&) {}});
  }

  void start(server_options options = {}) {
    auto started = server::start(options, routes_);
    ASSERT_TRUE(started) << started.error().message;
    server_ = std::move(*started);
  }

  std::promise<std::shared_ptr<exchange>> parked_;
  std::promise<void> gone_;
  std::vector<route> routes_;
  std::unique_ptr<server> server_;
};

TEST_F(http_server, keeps_a_connection_and_echoes_the_request_id) {
  start();
  http_client client(server_->port());
  auto first = client.call("POST", "/echo/a%2Eb", "one", "X-Request-Id: abc-1\r\n");
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(first.body, "a.b:one");
  EXPECT_EQ(first.field("X-Request-Id"), "abc-1");
  auto second = client.call("POST", "/echo/x", "two", "X-Request-Id: with space\r\n");
  EXPECT_EQ(second.body, "x:two");
  EXPECT_THAT(second.field("X-Request-Id"), StartsWith("req-"));
}

TEST_F(http_server, answers_pipelined_requests_in_order) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(
      client.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n1"
                  "POST /echo/b HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\n2"));
  EXPECT_EQ(client.receive().body, "a:1");
  EXPECT_EQ(client.receive().body, "b:2");
}

TEST_F(http_server, accepts_a_chunked_body_and_expect_continue) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(
      client.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"));
  EXPECT_EQ(client.receive().body, "a:abc");
  ASSERT_TRUE(client.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"));
  EXPECT_EQ(client.receive().status, 100);
  ASSERT_TRUE(client.send("hi"));
  EXPECT_EQ(client.receive().body, "a:hi");
}

TEST_F(http_server, w14_unknown_path_and_method) {
  start();
  http_client client(server_->port());
  auto missing = client.call("GET", "/scale_elastic_ep");
  EXPECT_EQ(missing.status, 404);
  EXPECT_THAT(missing.body, HasSubstr("\"type\":\"not_found_error\""));
  auto wrong = client.call("GET", "/echo/a");
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.field("Allow"), "POST");
}

TEST_F(http_server, w14_body_too_large_is_refused_before_it_is_read) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(client.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999\r\n\r\n"));
  auto answer = client.receive();
  EXPECT_EQ(answer.status, 413);
  EXPECT_THAT(answer.body, HasSubstr("99999999999"));
  http_client chunked(server_->port());
  ASSERT_TRUE(chunked.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" +
                           std::string(0xfff, 'x')));
  EXPECT_EQ(chunked.receive().status, 413);
}

TEST_F(http_server, w14_malformed_requests_get_400_and_the_server_lives) {
  start();
  const std::string head = "POST /echo/a HTTP/1.1\r\nHost: t\r\n";
  for (const auto& bad :
       {std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 13), std::string("GET\r\n\r\n"),
        head + "Content-Length: -1\r\n\r\n", head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        head + "Transfer-Encoding: chunked\r\n\r\n-5\r\n", head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        std::string("GET /a%zz HTTP/1.1\r\nHost: t\r\n\r\n"), std::string("GET /a%00 HTTP/1.1\r\nHost: t\r\n\r\n"),
        std::string("GET /livez HTTP/9.9\r\n\r\n")}) {
    http_client client(server_->port());
    ASSERT_TRUE(client.send(bad));
    EXPECT_EQ(client.receive().status, 400) << bad;
  }
  http_client client(server_->port());
  EXPECT_EQ(client.call("POST", "/echo/a", "ok").status, 200);
}

TEST_F(http_server, w14_too_many_headers) {
  start();
  http_client client(server_->port());
  std::string headers;
  for (int i = 0; i < 1000; ++i) headers += "X-Filler-" + std::to_string(i) + ": 0123456789\r\n";
  EXPECT_EQ(client.call("POST", "/echo/a", "", headers).status, 431);
}

TEST_F(http_server, w14_slow_header_and_slow_body_time_out) {
  start({.header_timeout = 50ms});
  http_client header(server_->port());
  ASSERT_TRUE(header.send("POST /echo/a HT"));
  EXPECT_EQ(header.receive().status, 408);
  http_client body(server_->port());
  ASSERT_TRUE(body.send("POST /echo/a HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nab"));
  EXPECT_EQ(body.receive().status, 408);
}

TEST_F(http_server, h6_silent_connections_are_closed) {
  start({.header_timeout = 50ms, .idle_timeout = 50ms});
  http_client silent(server_->port());
  EXPECT_TRUE(silent.at_end());
  http_client idle(server_->port());
  EXPECT_EQ(idle.call("POST", "/echo/a", "x").status, 200);
  EXPECT_TRUE(idle.at_end());
}

TEST_F(http_server, o8_connections_are_bounded) {
  start({.connections_max = 1});
  http_client first(server_->port());
  EXPECT_EQ(first.call("POST", "/echo/a", "x").status, 200);
  http_client second(server_->port());
  EXPECT_EQ(second.receive().status, 503);
  EXPECT_EQ(first.call("POST", "/echo/a", "x").status, 200);
}

TEST_F(http_server, o8_idle_connections_give_their_places_back) {
  start({.connections_max = 20, .header_timeout = 50ms, .idle_timeout = 50ms});
  std::vector<std::unique_ptr<http_client>> idle;
  for (int i = 0; i < 20; ++i) idle.push_back(std::make_unique<http_client>(server_->port()));
  for (const auto& one : idle) EXPECT_TRUE(one->at_end());
  EXPECT_EQ(http_client(server_->port()).call("POST", "/echo/a", "x").status, 200);
}

TEST_F(http_server, a_client_that_goes_away_cancels_its_request) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(client.send("POST /park HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"));
  auto waiting = parked_.get_future().get();
  client.close();
  EXPECT_EQ(gone_.get_future().wait_for(10s), std::future_status::ready);
  waiting->reply({.body = "too late"});
  http_client other(server_->port());
  EXPECT_EQ(other.call("POST", "/echo/a", "x").body, "a:x");
}

TEST_F(http_server, the_first_answer_counts_and_comes_from_any_thread) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(client.send("POST /park HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"));
  auto waiting = parked_.get_future().get();
  waiting->reply({.body = "first"});
  waiting->reply({.body = "second"});
  EXPECT_EQ(client.receive().body, "first");
  EXPECT_EQ(client.call("POST", "/echo/a", "x").body, "a:x");
}

TEST_F(http_server, p9_a_handler_that_throws_or_forgets_gives_500) {
  start();
  http_client client(server_->port());
  EXPECT_THAT(client.call("GET", "/throw").body, HasSubstr("boom"));
  auto dropped = client.call("GET", "/drop");
  EXPECT_EQ(dropped.status, 500);
}

TEST_F(http_server, n12_port_in_use_says_so) {
  start();
  auto second = server::start({.address = server_->address()}, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::conflict);
  EXPECT_THAT(second.error().message, HasSubstr(server_->address()));
  for (const auto* wrong : {"8080", "127.0.0.1", "127.0.0.1:x", "http://127.0.0.1:80", "[::1:80", ":80", "[]:80"}) {
    EXPECT_FALSE(server::start({.address = wrong}, {})) << wrong;
  }
}

TEST_F(http_server, stop_lets_a_request_in_progress_finish) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(client.send("POST /park HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"));
  auto waiting = parked_.get_future().get();
  auto stopped = std::async(std::launch::async, [this] { server_->stop(30s); });
  // The port is closed to new clients before the old one has its answer.
  while (http_client(server_->port()).connected()) std::this_thread::yield();
  waiting->reply({.body = "done"});
  auto answer = client.receive();
  EXPECT_EQ(answer.body, "done");
  EXPECT_EQ(answer.field("Connection"), "close");
  client.close();
  EXPECT_EQ(stopped.wait_for(20s), std::future_status::ready);
}

TEST_F(http_server, an_exchange_may_outlive_the_server) {
  start();
  http_client client(server_->port());
  ASSERT_TRUE(client.send("POST /park HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n"));
  auto waiting = parked_.get_future().get();
  server_.reset();
  EXPECT_EQ(gone_.get_future().wait_for(0s), std::future_status::ready);
  waiting->reply({.body = "nobody hears this"});
}

TEST(http_probes, say_what_is_not_ready) {
  metrics_registry metrics;
  metrics.add(build_metrics("1.2.3", "abc", "cpu"));
  metrics.add(process_metrics());
  bool ok = false;
  auto routes = probe_routes({.build = {"1.2.3", "abc", "cpu"},
                              .ready =
                                  [&ok] {
                                    return std::vector<check>{{"wire", true}, {"coordinator", ok, "not joined"}};
                                  },
                              .metrics = &metrics});
  auto server = server::start({}, std::move(routes));
  ASSERT_TRUE(server);
  http_client client((*server)->port());
  EXPECT_EQ(client.call("GET", "/livez").status, 200);
  auto failing = client.call("GET", "/readyz");
  EXPECT_EQ(failing.status, 503);
  EXPECT_THAT(failing.body, HasSubstr("[+]wire ok\n[-]coordinator failed: not joined\n"));
  auto health = client.call("GET", "/health");
  EXPECT_EQ(health.status, 503);
  EXPECT_THAT(health.body, HasSubstr("coordinator: not joined"));
  ok = true;
  EXPECT_EQ(client.call("GET", "/readyz").body, "ok\n");
  EXPECT_THAT(client.call("GET", "/readyz?verbose").body, EndsWith("readyz check passed\n"));
  EXPECT_EQ(client.call("GET", "/health").body, R"({"status":"ok"})");
  auto head = client.call("HEAD", "/health");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.field("Content-Length"), "15");
  EXPECT_THAT(client.call("GET", "/version").body, HasSubstr(R"("version":"1.2.3")"));
  auto text = client.call("GET", "/metrics").body;
  EXPECT_THAT(text, HasSubstr("moe_build_info{version=\"1.2.3\",commit=\"abc\",backend=\"cpu\"} 1"));
  EXPECT_THAT(text, HasSubstr("# TYPE process_resident_memory_bytes gauge"));
  EXPECT_THAT(text, Not(HasSubstr("process_open_fds 0\n")));
}

TEST(http_errors, are_openai_objects) {
  auto answer = to_response({errc::invalid_request, "bad \xff byte"}, "hidden");
  EXPECT_EQ(answer.status, 400U);
  EXPECT_THAT(answer.body, HasSubstr(R"("param":"hidden")"));
  EXPECT_THAT(answer.body, HasSubstr("\xef\xbf\xbd"));
  EXPECT_EQ(*find_header(answer.headers, "X-Should-Retry"), "false");
  auto busy = to_response({errc::overloaded, "full"});
  EXPECT_EQ(busy.status, 429U);
  EXPECT_EQ(*find_header(busy.headers, "retry-after"), "1");
  EXPECT_THAT(busy.body, HasSubstr(R"("code":"overloaded")"));
  EXPECT_THAT(busy.body, HasSubstr(R"("param":null)"));
  EXPECT_EQ(to_status(errc::timeout), 504U);
}

TEST(http_metrics, histogram_has_the_promised_bounds_and_merges_families) {
  histogram latency(latency_bounds());
  for (double value : {0.0005, 0.002, 0.002, 0.07, 100.0}) latency.observe(value);
  metrics_registry metrics;
  for (const auto* layer : {"0", "1"}) {
    metrics.add([&latency, layer](std::vector<metric_family>& families) {
      metric_family family{"moe_expert_latency_seconds", "Round trip.", metric_kind::histogram};
      family.add({{"layer", layer}}, latency);
      families.push_back(std::move(family));
    });
  }
  const auto text = metrics.text();
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"0\",le=\"0.001\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"0\",le=\"0.005\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"0\",le=\"0.01\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"0\",le=\"0.05\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"0\",le=\"0.1\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("moe_expert_latency_seconds_bucket{layer=\"1\",le=\"+Inf\"} 5\n"));
  EXPECT_EQ(text.find("# TYPE"), text.rfind("# TYPE"));
}

}  // namespace
}  // namespace troupe::http
