// The text doors over HTTP, before a fake engine (faults.md H10, O1, O3, O10, P13; H13 with a client that does not
// read). What the official client makes of them is tested in tests/client/openai.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <thread>

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <nlohmann/json.hpp>

#include "common/http/server.hpp"
#include "model/chat_template/chat_template.hpp"
#include "router_node/shell/openai_doors.hpp"
#include "tests/common/http_client.hpp"
#include "tests/router_node/fake_generation.hpp"

namespace troupe::router::testing {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using troupe::testing::http_answer;
using troupe::testing::http_client;

const std::filesystem::path folder = std::filesystem::path(TROUPE_SOURCE_DIR) / "tests/golden/dev/tokenizer";

class openai_over_http : public ::testing::Test {
 protected:
  openai_over_http() {
    auto tokenizer = model::tokenizer::open(folder);
    auto chat = model::chat_template::open(folder);
    EXPECT_TRUE(tokenizer && chat);
    tokenizer_ = std::move(*tokenizer);
    chat_ = std::move(*chat);
    settings_.model = {.name = "fake", .tokenizer = tokenizer_.get(), .chat_template = chat_.get()};
    settings_.on_outcome = [this](text_outcome outcome) {
      const std::lock_guard lock(mutex_);
      outcomes_.push_back(outcome);
      told_.notify_all();
    };
  }
  ~openai_over_http() override {
    client_.reset();
    server_.reset();
    doors_.reset();
  }

  void serve() {
    engine_ = std::make_unique<fake_generation>(settings_.model.tokenizer, generation_limits{tokenizer_->size(), 4096});
    settings_.gateway = engine_.get();
    doors_ = std::make_unique<openai_doors>(settings_);
    auto started = http::server::start({}, doors_->routes());
    ASSERT_TRUE(started) << started.error().message;
    server_ = std::move(*started);
    client_ = std::make_unique<http_client>(server_->port());
  }

  http_answer complete(json body) { return client_->call("POST", "/v1/completions", body.dump()); }
  http_answer chat(const std::string& text, json more = json::object()) {
    more["messages"] = json::array({{{"role", "user"}, {"content", text}}});
    return client_->call("POST", "/v1/chat/completions", more.dump());
  }
  // The data of all events of a streamed answer; an error that was there before the first event left is all that comes.
  std::vector<std::string> events(const std::string& path, json body) {
    body["stream"] = true;
    const auto head = client_->call("POST", path, body.dump());
    if (head.status != 200) return {head.body};
    EXPECT_EQ(head.field("Content-Type"), "text/event-stream") << head.body;
    std::stringstream lines(client_->receive_chunks());
    std::vector<std::string> out;
    for (std::string line; std::getline(lines, line);) {
      if (line.starts_with("data: ")) out.push_back(line.substr(6));
    }
    return out;
  }

  text_outcome await_outcome() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(told_.wait_for(lock, 30s, [this] { return !outcomes_.empty(); }));
    return outcomes_.empty() ? text_outcome::error : outcomes_.front();
  }
  void await_running(std::uint64_t count) {
    const auto end = std::chrono::steady_clock::now() + 30s;
    while (engine_->counts().running != count && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    ASSERT_EQ(engine_->counts().running, count);
  }
  static json error_of(const http_answer& answer) { return json::parse(answer.body).at("error"); }

  std::unique_ptr<const model::tokenizer> tokenizer_;
  std::unique_ptr<const model::chat_template> chat_;
  openai_settings settings_;
  std::mutex mutex_;
  std::condition_variable told_;
  std::vector<text_outcome> outcomes_;
  std::unique_ptr<fake_generation> engine_;
  std::unique_ptr<openai_doors> doors_;
  std::unique_ptr<http::server> server_;
  std::unique_ptr<http_client> client_;
};

TEST_F(openai_over_http, a_plain_completion_has_text_usage_and_exactness) {
  serve();
  const auto answer = complete({{"prompt", "Hi"}, {"temperature", 0}, {"max_tokens", 500}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto body = json::parse(answer.body);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_THAT(body["id"].get<std::string>(), StartsWith("cmpl-"));
  EXPECT_THAT(body["choices"][0]["text"].get<std::string>(), StartsWith("The hills were green, 日本 and 😀;"));
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["total_tokens"],
            body["usage"]["prompt_tokens"].get<int>() + body["usage"]["completion_tokens"].get<int>());
  EXPECT_EQ(body["troupe"], json({{"approximate_tokens", 0}}));
  EXPECT_EQ(await_outcome(), text_outcome::ok);
}

TEST_F(openai_over_http, a_stream_says_what_the_plain_answer_says) {
  serve();
  const json body{{"prompt", {"Hi", "Ho"}}, {"n", 2}, {"seed", 4}, {"max_tokens", 20}, {"stop", {"nothing."}}};
  const auto plain = json::parse(complete(body).body);
  auto streamed = body;
  streamed["stream_options"] = {{"include_usage", true}};
  const auto data = events("/v1/completions", streamed);
  std::vector<std::string> texts(4);
  std::vector<json> reasons(4);
  ASSERT_GE(data.size(), 6U);
  for (std::size_t i = 0; i + 2 < data.size(); ++i) {
    const auto chunk = json::parse(data[i]);
    EXPECT_TRUE(chunk.at("usage").is_null());
    const auto& choice = chunk["choices"][0];
    texts[choice["index"].get<std::size_t>()] += choice["text"].get<std::string>();
    if (!choice["finish_reason"].is_null()) reasons[choice["index"].get<std::size_t>()] = choice["finish_reason"];
  }
  const auto usage = json::parse(data[data.size() - 2]);
  EXPECT_TRUE(usage["choices"].empty());
  EXPECT_EQ(usage["usage"], plain["usage"]);
  EXPECT_EQ(usage["troupe"], plain["troupe"]);
  EXPECT_EQ(data.back(), "[DONE]");
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(texts[i], plain["choices"][i]["text"].get<std::string>());
    EXPECT_EQ(reasons[i], plain["choices"][i]["finish_reason"]);
  }
}

TEST_F(openai_over_http, a_chat_stream_begins_with_the_role) {
  serve();
  const auto data =
      events("/v1/chat/completions", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}, {"max_tokens", 3}});
  const auto first = json::parse(data.at(0));
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
  EXPECT_FALSE(first.contains("usage"));
  EXPECT_EQ(json::parse(data.at(data.size() - 2))["choices"][0]["finish_reason"], "length");
}

TEST_F(openai_over_http, inexact_tokens_say_so_in_their_chunk) {
  serve();
  const auto data = events(
      "/v1/completions", {{"prompt", "@inexact 1"}, {"max_tokens", 3}, {"stream_options", {{"include_usage", true}}}});
  int inexact = 0;
  for (const auto& one : data) {
    if (one == "[DONE]") continue;
    const auto chunk = json::parse(one);
    if (!chunk.contains("troupe") || chunk["choices"].empty()) continue;
    ++inexact;
    EXPECT_EQ(chunk["troupe"], json({{"exact", false}, {"reason", "substituted"}, {"layers", {0, 2}}}));
  }
  EXPECT_EQ(inexact, 1);
  EXPECT_EQ(json::parse(data[data.size() - 2])["troupe"], json({{"approximate_tokens", 1}}));
  const auto plain = json::parse(complete({{"prompt", "@inexact 1"}, {"max_tokens", 3}}).body);
  EXPECT_EQ(plain["choices"][0]["troupe"]["tokens"][0]["position"], 1);
  EXPECT_EQ(plain["troupe"]["approximate_tokens"], 1);
}

TEST_F(openai_over_http, echo_gives_the_log_probabilities_of_the_prompt) {
  serve();
  const auto body =
      json::parse(complete({{"prompt", "hello world"}, {"echo", true}, {"logprobs", 1}, {"max_tokens", 0}}).body);
  const auto& choice = body["choices"][0];
  EXPECT_EQ(choice["text"], "hello world");
  const auto& listed = choice["logprobs"];
  ASSERT_EQ(listed["tokens"].size(), 8U);  // with the one that begins a text
  EXPECT_TRUE(listed["token_logprobs"][0].is_null());
  EXPECT_EQ(listed["token_logprobs"][1], -0.5);
  EXPECT_EQ(listed["top_logprobs"][1].size(), 1U);
  EXPECT_EQ(body["usage"]["completion_tokens"], 0);
}

TEST_F(openai_over_http, o1_a_full_line_is_429_with_a_hint) {
  serve();
  for (const bool streams : {false, true}) {
    const auto answer = chat("@refuse", {{"stream", streams}});
    EXPECT_EQ(answer.status, 429);
    EXPECT_EQ(answer.field("Retry-After"), "1");
    EXPECT_EQ(error_of(answer)["code"], "overloaded");
  }
  EXPECT_EQ(engine_->counts().accepted, 0U);
  EXPECT_EQ(await_outcome(), text_outcome::rejected);
  EXPECT_EQ(chat("@gone").status, 503);
}

TEST_F(openai_over_http, an_error_before_the_first_byte_has_a_status_and_later_ends_the_stream) {
  serve();
  EXPECT_EQ(chat("@timeout 0", {{"stream", true}}).status, 504);
  EXPECT_EQ(chat("@unavailable 2").status, 503);
  const auto data = events("/v1/completions", {{"prompt", "@unavailable 2"}});
  EXPECT_EQ(json::parse(data.back())["error"]["code"], "unavailable");
  EXPECT_THAT(data, Not(::testing::Contains("[DONE]")));
  await_running(0);
}

TEST_F(openai_over_http, one_choice_that_fails_ends_the_others) {
  serve();
  EXPECT_EQ(complete({{"prompt", {"@hold 0", "@unavailable 1"}}}).status, 503);
  await_running(0);  // the held one would run for ever
  EXPECT_GE(engine_->counts().cancelled, 1U);
}

TEST_F(openai_over_http, o3_one_client_has_a_bounded_number_of_answers) {
  settings_.answers_per_key_max = 4;
  serve();
  const auto answer = complete({{"prompt", "Hi"}, {"n", 5}});
  EXPECT_EQ(answer.status, 429);
  EXPECT_EQ(error_of(answer)["code"], "rate_limit_exceeded");
  EXPECT_EQ(engine_->counts().accepted, 0U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(complete({{"prompt", "Hi"}, {"n", 4}}).status, 200);  // shares come back
}

TEST_F(openai_over_http, o10_time_that_is_over_on_arrival_costs_no_work) {
  serve();
  EXPECT_EQ(complete({{"prompt", "Hi"}, {"timeout_ms", 0}}).status, 504);
  EXPECT_EQ(engine_->counts().accepted, 0U);
  EXPECT_EQ(await_outcome(), text_outcome::expired);
}

TEST_F(openai_over_http, p13_a_client_that_leaves_cancels_and_counts_as_aborted) {
  settings_.ping_interval = 5ms;
  serve();
  for (const bool streams : {false, true}) {
    http_client leaver(server_->port());
    const auto body = json{{"prompt", "@hold 1"}, {"n", 2}, {"stream", streams}}.dump();
    ASSERT_TRUE(leaver.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                            std::to_string(body.size()) + "\r\n\r\n" + body));
    await_running(2);
    leaver.close();
    await_running(0);
  }
  EXPECT_EQ(engine_->counts().cancelled, 4U);
  EXPECT_EQ(await_outcome(), text_outcome::aborted);
}

TEST_F(openai_over_http, h13_a_client_that_does_not_read_its_stream_is_cut_off) {
  serve();
  http_client sleeper(server_->port());
  const auto body = json{{"prompt", "@flood"}, {"stream", true}, {"max_tokens", 4000}, {"ignore_eos", true}}.dump();
  ASSERT_TRUE(sleeper.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                           std::to_string(body.size()) + "\r\n\r\n" + body));
  EXPECT_EQ(await_outcome(), text_outcome::aborted);
  await_running(0);
  EXPECT_EQ(complete({{"prompt", "Hi"}}).status, 200);
}

TEST_F(openai_over_http, pings_while_the_prompt_is_computed) {
  settings_.ping_interval = 5ms;
  serve();
  const auto body = json{{"prompt", "@hold 0"}, {"stream", true}}.dump();
  EXPECT_EQ(client_->call("POST", "/v1/completions", body).status, 200);
  EXPECT_EQ(client_->receive_chunk(), ": ping\n\n");
}

TEST_F(openai_over_http, h10_what_prompts_say_is_in_no_log) {
  std::ostringstream lines;
  auto logger = std::make_shared<spdlog::logger>("h10", std::make_shared<spdlog::sinks::ostream_sink_mt>(lines));
  logger->set_level(spdlog::level::trace);
  const auto before = spdlog::default_logger();
  spdlog::set_default_logger(logger);
  serve();
  EXPECT_EQ(complete({{"prompt", "geheimnis"}, {"mood", "geheimnis"}, {"user", "geheimnis"}}).status, 200);
  EXPECT_EQ(complete({{"prompt", "geheimnis"}, {"n", 99}}).status, 400);
  EXPECT_EQ(chat("geheimnis @unavailable 1").status, 503);
  spdlog::set_default_logger(before);
  EXPECT_THAT(lines.str(), HasSubstr("unknown fields are ignored: mood"));
  EXPECT_THAT(lines.str(), Not(HasSubstr("geheimnis")));
}

TEST_F(openai_over_http, c7_without_a_tokenizer_ids_go_in_and_out) {
  settings_.model.tokenizer = nullptr;
  serve();
  const auto answer = complete({{"prompt", {1, 2, 3}}, {"max_tokens", 4}, {"temperature", 0}, {"logprobs", 0}});
  ASSERT_EQ(answer.status, 200) << answer.body;
  const auto choice = json::parse(answer.body)["choices"][0];
  EXPECT_EQ(choice["token_ids"], json({1, 2, 3, 4}));
  EXPECT_EQ(choice["logprobs"]["tokens"][0], "token_id:1");
  EXPECT_EQ(complete({{"prompt", "text"}}).status, 400);
  EXPECT_EQ(chat("text").status, 400);
}

TEST_F(openai_over_http, tokenize_and_detokenize) {
  serve();
  EXPECT_EQ(client_->call("POST", "/tokenize", R"({"content": "hello world"})").body,
            R"({"tokens":[287,406,83,335,273,80,72]})");
  EXPECT_EQ(client_->call("POST", "/detokenize", R"({"tokens": [287,406,83,335,273,80,72]})").body,
            R"({"content":"hello world"})");
  EXPECT_EQ(client_->call("POST", "/tokenize", "x").status, 400);
}

}  // namespace
}  // namespace troupe::router::testing
