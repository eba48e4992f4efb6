// Text over ZeroMQ: a real router's thread and sockets, a generation engine that says what the test wants.
#include <chrono>
#include <map>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"
#include "tests/router_node/router_fixture.hpp"

namespace troupe::router::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr token_number vocabulary = 1000;

// Takes jobs and keeps them; the test is its thread.
class fake_engine final : public generation_gateway {
 public:
  [[nodiscard]] const generation_limits& limits() const override { return limits_; }

  [[nodiscard]] result<std::uint64_t> generate(generation_job job) override {
    std::lock_guard lock(mutex_);
    if (refusal_) return fail(*refusal_);
    jobs_[++last_] = std::move(job);
    return last_;
  }

  void cancel(std::uint64_t number) override {
    std::lock_guard lock(mutex_);
    cancelled_.push_back(number);
  }

  void refuse(error reason) {
    std::lock_guard lock(mutex_);
    refusal_ = std::move(reason);
  }
  void emit(std::uint64_t number, generation_event event) {
    std::function<void(generation_event)> tell;
    {
      std::lock_guard lock(mutex_);
      tell = jobs_.at(number).on_event;
    }
    tell(std::move(event));
  }
  [[nodiscard]] generation_request request(std::uint64_t number) {
    std::lock_guard lock(mutex_);
    return jobs_.at(number).request;
  }
  [[nodiscard]] std::size_t jobs() {
    std::lock_guard lock(mutex_);
    return jobs_.size();
  }
  [[nodiscard]] std::vector<std::uint64_t> cancelled() {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }

 private:
  const generation_limits limits_{.vocabulary = vocabulary, .context_tokens = 64};
  std::mutex mutex_;
  std::map<std::uint64_t, generation_job> jobs_;
  std::vector<std::uint64_t> cancelled_;
  std::optional<error> refusal_;
  std::uint64_t last_{};
};

class streams_over_sockets : public router_test {
 protected:
  // A tokenizer of bytes.
  void SetUp() override {
    start("mixtral");
    use({.engine = &fake_,
         .encode =
             [](std::string_view text, bool add_special) {
               std::vector<token_number> tokens;
               if (add_special) tokens.push_back(999);
               for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
               return tokens;
             },
         .decode = [](std::span<const token_number> ids, bool) { return std::string(ids.begin(), ids.end()); },
         .text_of = [](token_number id) { return std::string(1, static_cast<char>(id)); },
         .render = [](std::string_view messages) -> result<std::string> {
           if (messages == "[]") return fail(errc::invalid_request, "messages: there must be one");
           return "<" + std::string(messages) + ">";
         }});
  }

  void TearDown() override { stop(); }

  void use(text_source text) { use_text(std::make_shared<const text_source>(std::move(text))); }

  void use_text(client_streams::text_or_reason text) {
    loop_->use_text(std::move(text));
    publish({{}});  // returns when the router has this map, and what was put before it
  }

  // Sends the request; the answer to come is `request_id`'s.
  static proto::ClientToRouter make(std::uint64_t request_id, const std::string& text = "ab") {
    proto::ClientToRouter envelope;
    auto& request = *envelope.mutable_generate();
    request.set_request_id(request_id);
    request.set_client_id("test");
    request.set_text(text);
    request.set_max_tokens(8);
    return envelope;
  }

  // The next event of the connection's only stream that says anything.
  static proto::GenerateEvent next_event(test_client& client) {
    while (true) {
      auto reply = client.receive();
      EXPECT_TRUE(reply.envelope.has_generate()) << reply.envelope.ShortDebugString();
      if (!reply.envelope.has_generate()) return {};
      EXPECT_EQ(reply.envelope.generate().events_size(), 1);
      auto event = reply.envelope.generate().events(0);
      if (event.has_accepted() || event.has_end() || event.tokens_size() > 0) return event;
    }
  }

  static proto::Error failure_of(test_client& client, std::uint64_t request_id) {
    while (true) {
      auto reply = client.receive();
      if (reply.envelope.has_generate()) continue;
      EXPECT_TRUE(reply.envelope.has_failure()) << reply.envelope.ShortDebugString();
      EXPECT_EQ(reply.envelope.failure().request_id(), request_id);
      return reply.envelope.failure().error();
    }
  }

  // Sends, and waits until the engine has it. The engine's number.
  std::uint64_t begin(test_client& client, const proto::ClientToRouter& envelope) {
    const auto before = fake_.jobs();
    client.send(envelope);
    await([&] { return fake_.jobs() == before + 1; }, "the engine has the job");
    return before + 1;
  }

  // Counters move after the client has been told.
  void await_count(const std::string& line) {
    await([&] { return metrics_text().find(line) != std::string::npos; }, "the metrics say " + line);
  }

  static token_event token(std::uint32_t position, token_number id, bool is_last = false) {
    return {.id = id,
            .position = position,
            .text = std::string(1, static_cast<char>(id)),
            .logprob = -0.5F,
            .top = {},
            .flags = 0,
            .inexact_layers = {},
            .is_last = is_last};
  }

  fake_engine fake_;
};

TEST_F(streams_over_sockets, streams_tokens_and_the_end) {
  auto envelope = make(5);
  envelope.mutable_generate()->mutable_sampling()->set_seed(77);
  envelope.mutable_generate()->set_logprobs(true);
  const auto job = begin(*client_, envelope);
  const auto accepted = next_event(*client_);
  EXPECT_EQ(accepted.request_id(), 5U);
  EXPECT_EQ(accepted.accepted().prompt_tokens(), 3U);
  EXPECT_EQ(accepted.accepted().seed(), 77U);
  EXPECT_EQ(accepted.accepted().max_tokens(), 8U);

  auto first = token(0, 'x');
  first.flags = flag_substituted;
  first.inexact_layers = {3};
  first.top = {{'x', -0.5F}, {'y', -1.5F}};
  fake_.emit(job, first);
  const auto event = next_event(*client_);
  ASSERT_EQ(event.tokens_size(), 1);
  EXPECT_EQ(event.tokens(0).id(), token_number{'x'});
  EXPECT_EQ(event.tokens(0).text(), "x");
  EXPECT_EQ(event.tokens(0).logprob(), -0.5F);
  EXPECT_EQ(event.tokens(0).flags(), flag_substituted);
  EXPECT_THAT(event.tokens(0).inexact_layers(), ElementsAre(3));
  ASSERT_EQ(event.tokens(0).top_size(), 2);
  EXPECT_EQ(event.tokens(0).top(1).text(), "y");

  fake_.emit(job, token(1, 'y', true));
  fake_.emit(job, generation_end{.reason = finish_reason::length,
                                 .text = "tail",
                                 .stop_match = {},
                                 .prompt_tokens = 3,
                                 .cached_tokens = 1,
                                 .answer_tokens = 2,
                                 .approximate_tokens = 1});
  const auto last = next_event(*client_);
  ASSERT_EQ(last.tokens_size(), 1) << "the last token comes with the reason";
  EXPECT_EQ(last.tokens(0).position(), 1U);
  EXPECT_EQ(last.end().reason(), proto::FINISH_LENGTH);
  EXPECT_EQ(last.end().text(), "tail");
  EXPECT_EQ(last.end().answer_tokens(), 2U);
  EXPECT_EQ(last.end().approximate_tokens(), 1U);
  await_count("moe_requests_total{outcome=\"ok\"} 1");
  EXPECT_THAT(fake_.cancelled(), SizeIs(0));
}

TEST_F(streams_over_sockets, the_engine_gets_every_setting) {
  auto envelope = make(1, "");
  auto& request = *envelope.mutable_generate();
  request.mutable_tokens()->add_ids(4);
  request.mutable_tokens()->add_ids(5);
  request.add_resumed(6);
  auto& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_top_k(9);
  sampling.set_top_p(0.5F);
  sampling.set_min_p(0.25F);
  sampling.set_repetition_penalty(1.5F);
  sampling.set_presence_penalty(-1);
  sampling.set_frequency_penalty(2);
  (*sampling.mutable_logit_bias())[7] = -3;
  sampling.set_seed(11);
  request.add_stop("end");
  request.add_stop_token_ids(8);
  request.set_ignore_eos(true);
  request.set_top_logprobs(2);
  request.set_skip_special_tokens(false);
  request.set_degrade(proto::FAIL);
  request.set_timeout_ms(5000);
  const auto before = std::chrono::steady_clock::now();
  const auto got = fake_.request(begin(*client_, envelope));
  EXPECT_THAT(got.prompt, ElementsAre(4, 5));
  EXPECT_THAT(got.resumed, ElementsAre(6));
  EXPECT_EQ(got.sampling.temperature, 0);
  EXPECT_EQ(got.sampling.top_k, 9U);
  EXPECT_EQ(got.sampling.top_p, 0.5F);
  EXPECT_EQ(got.sampling.min_p, 0.25F);
  EXPECT_EQ(got.sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(got.sampling.presence_penalty, -1);
  EXPECT_EQ(got.sampling.frequency_penalty, 2);
  EXPECT_EQ(got.sampling.logit_bias.at(7), -3);
  EXPECT_EQ(got.sampling.seed, 11U);
  EXPECT_EQ(got.max_tokens, 8U);
  EXPECT_THAT(got.stop, ElementsAre("end"));
  EXPECT_THAT(got.stop_token_ids, ElementsAre(8));
  EXPECT_TRUE(got.ignore_eos);
  EXPECT_EQ(got.top_logprobs, 2U);
  EXPECT_TRUE(got.wants_logprobs);
  EXPECT_FALSE(got.skips_special);
  EXPECT_EQ(got.policy, degrade::fail);
  EXPECT_GE(got.deadline, before + 4s);
  EXPECT_LE(got.deadline, std::chrono::steady_clock::now() + 5s);
  EXPECT_EQ(got.client, "test");
}

TEST_F(streams_over_sockets, what_is_not_said_has_its_default) {
  auto envelope = make(1);
  envelope.mutable_generate()->clear_max_tokens();
  const auto got = fake_.request(begin(*client_, envelope));
  EXPECT_EQ(got.sampling.temperature, 1);
  EXPECT_EQ(got.sampling.top_p, 1);
  EXPECT_EQ(got.sampling.repetition_penalty, 1);
  EXPECT_TRUE(got.skips_special);
  EXPECT_EQ(got.policy, degrade::wait);
  EXPECT_EQ(got.max_tokens, 61U) << "the context less the prompt";
  EXPECT_EQ(next_event(*client_).accepted().seed(), got.sampling.seed) << "drawn, and said";
}

TEST_F(streams_over_sockets, chat_goes_through_the_template) {
  auto envelope = make(1);
  envelope.mutable_generate()->set_messages_json("[1]");
  EXPECT_THAT(fake_.request(begin(*client_, envelope)).prompt, ElementsAre('<', '[', '1', ']', '>'));
  envelope.mutable_generate()->set_request_id(2);
  envelope.mutable_generate()->set_messages_json("[]");
  client_->send(envelope);
  EXPECT_THAT(failure_of(*client_, 2).message(), HasSubstr("there must be one"));
}

TEST_F(streams_over_sockets, c7_token_ids_work_without_a_tokenizer) {
  use({.engine = &fake_, .encode = {}, .decode = {}, .text_of = {}, .render = {}});
  client_->send(make(1));
  const auto reason = failure_of(*client_, 1);
  EXPECT_EQ(reason.code(), proto::INVALID_REQUEST);
  EXPECT_THAT(reason.message(), HasSubstr("no tokenizer"));
  auto envelope = make(2);
  envelope.mutable_generate()->mutable_tokens()->add_ids(3);
  const auto job = begin(*client_, envelope);
  EXPECT_TRUE(next_event(*client_).has_accepted());
  fake_.emit(job, token(0, 4));
  EXPECT_EQ(next_event(*client_).tokens(0).id(), 4U);
}

TEST_F(streams_over_sockets, refuses_what_makes_no_sense) {
  auto envelope = make(1);
  envelope.mutable_generate()->clear_prompt();
  client_->send(envelope);
  EXPECT_THAT(failure_of(*client_, 1).message(), HasSubstr("prompt: not set"));
  envelope = make(2);
  envelope.mutable_generate()->mutable_sampling()->set_top_p(2);
  client_->send(envelope);
  const auto reason = failure_of(*client_, 2);
  EXPECT_EQ(reason.code(), proto::INVALID_REQUEST);
  EXPECT_THAT(reason.message(), HasSubstr("top_p"));
  client_->send(make(3, std::string(limits::prompt_bytes_max + 1, 'x')));
  EXPECT_EQ(failure_of(*client_, 3).code(), proto::TOO_LARGE);
  fake_.refuse({errc::overloaded, "200 requests wait; retry later"});
  client_->send(make(4));
  EXPECT_EQ(failure_of(*client_, 4).code(), proto::OVERLOADED);
  EXPECT_EQ(fake_.jobs(), 0U);
  await_count("moe_requests_total{outcome=\"rejected\"} 1");
}

TEST_F(streams_over_sockets, o10_a_request_whose_time_is_over_is_not_begun) {
  std::atomic<bool> goes_on = false;
  use({.engine = &fake_,
       .encode =
           [&](std::string_view text, bool) {
             while (text == "long" && !goes_on) std::this_thread::yield();
             return std::vector<token_number>{1};
           },
       .decode = {},
       .text_of = {},
       .render = {}});
  client_->send(make(1, "long"));
  auto late = make(2);
  late.mutable_generate()->set_timeout_ms(1);
  client_->send(late);
  // In order: when the router says this, it has taken in the others.
  client_->send(make(2));
  EXPECT_EQ(failure_of(*client_, 2).code(), proto::IN_PROGRESS);
  const auto taken = std::chrono::steady_clock::now();
  await([&] { return std::chrono::steady_clock::now() > taken + 1ms; }, "the time of the second is over");
  goes_on = true;
  EXPECT_EQ(failure_of(*client_, 2).code(), proto::TIMEOUT);
  EXPECT_EQ(fake_.jobs(), 1U);
  await_count("moe_requests_total{outcome=\"expired\"} 1");
}

TEST_F(streams_over_sockets, a_router_without_text_says_so) {
  use_text(fail(errc::not_found, "family switch_transformers has no text; ask for layers"));
  client_->send(make(1));
  EXPECT_THAT(failure_of(*client_, 1).message(), HasSubstr("ask for layers"));
}

TEST_F(streams_over_sockets, w12_a_running_name_is_in_progress) {
  const auto job = begin(*client_, make(9));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  client_->send(make(9));
  EXPECT_EQ(failure_of(*client_, 9).code(), proto::IN_PROGRESS);
  fake_.emit(job, generation_end{});
  EXPECT_TRUE(next_event(*client_).has_end());
  begin(*client_, make(9));
  EXPECT_TRUE(next_event(*client_).has_accepted()) << "it is over: the next one of this name is new";
}

TEST_F(streams_over_sockets, an_error_ends_the_stream_after_its_tokens) {
  const auto job = begin(*client_, make(1));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  fake_.emit(job, token(0, 'a'));
  EXPECT_EQ(next_event(*client_).tokens_size(), 1);
  fake_.emit(job, error{errc::unavailable, "no replica of expert 3/7; retry later"});
  const auto reason = failure_of(*client_, 1);
  EXPECT_EQ(reason.code(), proto::UNAVAILABLE);
  EXPECT_GT(reason.retry_after_ms(), 0U);
  await_count("moe_requests_total{outcome=\"error\"} 1");
}

TEST_F(streams_over_sockets, p13_a_cancelled_stream_stops) {
  const auto job = begin(*client_, make(1));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  proto::ClientToRouter envelope;
  envelope.mutable_cancel()->set_request_id(1);
  envelope.mutable_cancel()->set_client_id("test");
  client_->send(envelope);
  await([&] { return fake_.cancelled() == std::vector{job}; }, "the engine is told");
  fake_.emit(job, token(0, 'a'));  // an event on its way: nobody is bothered
  client_->send(make(2));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  await_count("moe_requests_total{outcome=\"aborted\"} 1");
}

TEST_F(streams_over_sockets, p13_a_client_that_left_is_noticed_at_the_next_token) {
  auto other = std::make_unique<test_client>(context_, client_address_);
  other->say_hello();
  const auto job = begin(*other, make(1));
  EXPECT_TRUE(next_event(*other).has_accepted());
  other.reset();
  std::uint32_t position = 0;
  // libzmq takes a moment to see that the connection is gone.
  await(
      [&] {
        if (fake_.cancelled().empty()) fake_.emit(job, token(position++, 'a'));
        std::this_thread::yield();
        return fake_.cancelled() == std::vector{job};
      },
      "the engine is told");
  await_count("moe_requests_total{outcome=\"aborted\"} 1");
}

TEST_F(streams_over_sockets, p13_a_client_that_left_is_noticed_while_nothing_comes) {
  auto other = std::make_unique<test_client>(context_, client_address_);
  other->say_hello();
  const auto job = begin(*other, make(1));
  EXPECT_TRUE(next_event(*other).has_accepted());
  other.reset();
  await([&] { return fake_.cancelled() == std::vector{job}; }, "the engine is told");
}

TEST_F(streams_over_sockets, a_silent_stream_says_that_it_is_alive) {
  begin(*client_, make(3));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  const auto reply = client_->receive();
  ASSERT_EQ(reply.envelope.generate().events_size(), 1);
  const auto& event = reply.envelope.generate().events(0);
  EXPECT_EQ(event.request_id(), 3U);
  EXPECT_FALSE(event.has_accepted() || event.has_end() || event.tokens_size() > 0);
}

TEST_F(streams_over_sockets, a_client_that_does_not_read_loses_its_stream_not_the_routers_memory) {
  const auto job = begin(*client_, make(1));
  auto large = token(0, 'a');
  large.text.assign(limits::stream_message_bytes_max, 'x');
  await(
      [&] {
        if (fake_.cancelled().empty()) fake_.emit(job, large);
        std::this_thread::yield();
        return fake_.cancelled() == std::vector{job};
      },
      "the engine is told");
}

TEST_F(streams_over_sockets, a_client_that_pauses_loses_nothing) {
  const auto job = begin(*client_, make(1));
  constexpr std::uint32_t count = 400;
  for (std::uint32_t position = 0; position < count; ++position) {
    auto one = token(position, 'a', position + 1 == count);
    one.text.assign(2000, 'x');  // together more than the queues and buffers on the way hold
    fake_.emit(job, one);
  }
  fake_.emit(job, generation_end{});
  std::uint32_t expected = 0;
  for (bool is_over = false; !is_over;) {
    const auto event = next_event(*client_);
    for (const auto& one : event.tokens()) ASSERT_EQ(one.position(), expected++);
    is_over = event.has_end();
  }
  EXPECT_EQ(expected, count);
  EXPECT_THAT(fake_.cancelled(), SizeIs(0));
}

TEST_F(streams_over_sockets, streams_of_one_connection_share_messages) {
  std::map<std::uint64_t, std::uint64_t> jobs;  // request id -> job
  for (std::uint64_t id = 1; id <= 200; ++id) jobs[id] = begin(*client_, make(id));
  for (const auto& [id, job] : jobs) fake_.emit(job, token(0, 'a' + static_cast<token_number>(id % 20), true));
  for (const auto& [id, job] : jobs) fake_.emit(job, generation_end{});
  std::map<std::uint64_t, token_number> got;
  std::size_t messages = 0;
  std::size_t ended = 0;
  while (ended < jobs.size()) {
    const auto reply = client_->receive();
    ASSERT_TRUE(reply.envelope.has_generate()) << reply.envelope.ShortDebugString();
    ++messages;
    for (const auto& event : reply.envelope.generate().events()) {
      for (const auto& t : event.tokens()) got[event.request_id()] = t.id();
      if (event.has_end()) ++ended;
    }
  }
  ASSERT_THAT(got, SizeIs(200));
  for (const auto& [id, token] : got) EXPECT_EQ(token, 'a' + id % 20);
  EXPECT_LE(messages, 2 * jobs.size() + 10);
}

TEST_F(streams_over_sockets, p3_a_stopping_router_sends_its_streams_elsewhere) {
  begin(*client_, make(1));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  loop_->stop(0ms);
  const auto reason = failure_of(*client_, 1);
  EXPECT_EQ(reason.code(), proto::UNAVAILABLE);
  EXPECT_THAT(reason.message(), HasSubstr("use another one"));
}

TEST_F(streams_over_sockets, a_stopping_router_lets_streams_end) {
  const auto job = begin(*client_, make(1));
  EXPECT_TRUE(next_event(*client_).has_accepted());
  loop_->stop(60s);
  fake_.emit(job, token(0, 'a'));
  EXPECT_EQ(next_event(*client_).tokens_size(), 1);
  fake_.emit(job, generation_end{});
  EXPECT_TRUE(next_event(*client_).has_end());
  thread_.join();
}

TEST_F(streams_over_sockets, tokenizes_and_back) {
  proto::ClientToRouter envelope;
  auto& request = *envelope.mutable_tokenize();
  request.set_request_id(4);
  request.set_text("hi");
  client_->send(envelope);
  auto reply = client_->receive().envelope.tokenize();
  EXPECT_EQ(reply.request_id(), 4U);
  EXPECT_THAT(reply.tokens(), ElementsAre('h', 'i'));
  request.mutable_tokens()->add_ids('o');
  request.mutable_tokens()->add_ids('k');
  client_->send(envelope);
  EXPECT_EQ(client_->receive().envelope.tokenize().text(), "ok");
  request.mutable_tokens()->add_ids(vocabulary);
  client_->send(envelope);
  EXPECT_THAT(failure_of(*client_, 4).message(), HasSubstr("tokens[2]: no token 1000"));
}

}  // namespace
}  // namespace troupe::router::testing
