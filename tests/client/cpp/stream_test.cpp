// Streams of the C++ client against fake routers: results, early ends, and routers that die (faults.md P3, P13).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <troupe/client.hpp>

#include "client/cpp/token_stream.hpp"
#include "tests/client/cpp/fake_router.hpp"
#include "tests/client/cpp/story.hpp"

namespace troupe::client {
namespace {

using namespace std::chrono_literals;
using testing::answer_failure;
using ::testing::ElementsAre;
using testing::fake_router;
using ::testing::HasSubstr;
using testing::request;
using testing::story;

const story tale;

void tell_all(fake_router& router, const request& asked) {
  if (asked.envelope.has_generate()) tale.tell(router, asked);
}
void tell_three(fake_router& router, const request& asked) {
  if (asked.envelope.has_generate()) tale.tell(router, asked, 3);
}

class stream_test : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("troupe-stream-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    options_.max_tokens = 8;
    options_.seed = 7;
    options_.timeout = 20s;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string address(int number = 0) const {
    return "ipc://" + (folder_ / ("router-" + std::to_string(number))).string();
  }
  [[nodiscard]] cluster connect(std::vector<std::string> addresses = {}) const {
    if (addresses.empty()) addresses = {address()};
    return cluster::connect({.addresses = std::move(addresses), .data_dir = folder_, .key_file = {}, .timeout = 10s});
  }
  // Reads a stream to its end; `at` is called before each token.
  generate_summary read(cluster& from, const std::function<void(const token&)>& at = {}) {
    tokens_.clear();
    text_.clear();
    return from.generate("once", options_, [&](const token& one) {
      if (at) at(one);
      tokens_.push_back(one);
      text_ += one.text;
      return true;
    });
  }

  std::filesystem::path folder_;
  generate_options options_;
  std::vector<token> tokens_;
  std::string text_;
};

std::vector<proto::GenerateRequest> generates(const fake_router& router) {
  std::vector<proto::GenerateRequest> found;
  for (const auto& seen : router.seen()) {
    if (seen.has_generate()) found.push_back(seen.generate());
  }
  return found;
}

bool has_cancelled(const fake_router& router, std::uint64_t request_id) {
  const auto seen = router.seen();
  return std::any_of(seen.begin(), seen.end(), [&](const auto& one) {
    return one.has_cancel() && one.cancel().request_id() == request_id && !one.cancel().client_id().empty();
  });
}

TEST_F(stream_test, is_its_tokens) {
  fake_router router(address(), tell_all);
  auto cluster = connect();
  const auto summary = read(cluster);
  ASSERT_EQ(tokens_.size(), 8U);
  EXPECT_EQ(text_, tale.text());
  for (std::uint32_t p = 0; p < 8; ++p) {
    EXPECT_EQ(tokens_[p].id, 100 + p);
    EXPECT_EQ(tokens_[p].position, p);
    EXPECT_EQ(tokens_[p].logprob, -0.5F);
    EXPECT_TRUE(tokens_[p].exact());
    EXPECT_EQ(tokens_[p].reason, p == 7 ? finish_reason::length : finish_reason::none);
  }
  EXPECT_EQ(summary.reason, finish_reason::length);
  EXPECT_EQ(summary.seed, 7U);
  EXPECT_EQ(summary.prompt_tokens, 3U);
  EXPECT_EQ(summary.answer_tokens, 8U);
  EXPECT_LE(generates(router).front().timeout_ms(), 20'000U);
  EXPECT_GE(generates(router).front().timeout_ms(), 19'000U) << "what is left of 20 s";
}

TEST_F(stream_test, p3_another_router_goes_on_where_one_was_killed) {
  auto first = std::make_unique<fake_router>(address(1), tell_three);
  fake_router second(address(2), tell_all);
  auto cluster = connect({address(1), address(2)});
  read(cluster, [&](const token& one) {
    if (one.position == 2) first.reset();
  });
  EXPECT_EQ(text_, tale.text());
  const auto again = generates(second).at(0);
  EXPECT_THAT(again.resumed(), ElementsAre(100, 101, 102));
  EXPECT_EQ(again.sampling().seed(), 7U);
  EXPECT_EQ(again.text(), "once");
  EXPECT_EQ(again.max_tokens(), 8U);
}

TEST_F(stream_test, p3_a_router_that_leaves_is_left_at_once) {
  fake_router first(address(1), [](fake_router& router, const request& asked) {
    if (!asked.envelope.has_generate()) return;
    tale.tell(router, asked, 3);
    proto::RouterToClient envelope;
    envelope.mutable_failure()->set_request_id(asked.envelope.generate().request_id());
    envelope.mutable_failure()->set_elsewhere(true);
    envelope.mutable_failure()->mutable_error()->set_code(proto::UNAVAILABLE);
    router.send(asked.peer, wire::outgoing_message(asked.kind), envelope);
  });
  fake_router second(address(2), tell_all);
  auto cluster = connect({address(1), address(2)});
  options_.policy = degrade::fail;
  read(cluster);
  EXPECT_EQ(text_, tale.text());
}

TEST_F(stream_test, p3_a_router_that_was_restarted_goes_on) {
  auto router = std::make_unique<fake_router>(address(), tell_three);
  auto cluster = connect();
  read(cluster, [&](const token& one) {
    if (one.position != 2) return;
    router.reset();
    router = std::make_unique<fake_router>(address(), tell_all);
  });
  EXPECT_EQ(text_, tale.text());
  EXPECT_THAT(generates(*router).at(0).resumed(), ElementsAre(100, 101, 102));
}

TEST_F(stream_test, a_missing_expert_is_told_to_callers_that_want_to_know) {
  fake_router first(address(1), [](fake_router& router, const request& asked) {
    if (asked.envelope.has_generate()) answer_failure(router, asked, proto::UNAVAILABLE, "no replica of expert 3/7");
  });
  fake_router second(address(2), tell_all);
  auto cluster = connect({address(1), address(2)});
  options_.policy = degrade::fail;
  try {
    read(cluster);
    FAIL() << "it must throw";
  } catch (const error& problem) {
    EXPECT_EQ(problem.code(), error_code::unavailable);
    EXPECT_THAT(problem.what(), HasSubstr("3/7"));
  }
  options_.policy = degrade::wait;
  read(cluster);
  EXPECT_EQ(text_, tale.text()) << "elsewhere it may be there";
}

TEST_F(stream_test, errors_of_new_streams_are_told) {
  fake_router router(address(), [](fake_router& r, const request& asked) {
    if (asked.envelope.has_generate()) answer_failure(r, asked, proto::OVERLOADED, "200 requests wait");
  });
  auto cluster = connect();
  try {
    read(cluster);
    FAIL() << "it must throw";
  } catch (const error& problem) {
    EXPECT_EQ(problem.code(), error_code::overloaded);
  }
}

TEST_F(stream_test, p13_a_reader_that_has_enough_ends_the_work) {
  fake_router router(address(), tell_three);
  auto cluster = connect();
  const auto summary = cluster.generate("once", options_, [](const token& one) { return one.position < 1; });
  EXPECT_EQ(summary.reason, finish_reason::none);
  EXPECT_TRUE(router.wait_until([&] { return has_cancelled(router, 1); }));

  struct failure_of_reader {};
  EXPECT_THROW(cluster.generate("once", options_, [](const token&) -> bool { throw failure_of_reader{}; }),
               failure_of_reader);
  EXPECT_TRUE(router.wait_until([&] { return has_cancelled(router, 2); }));

  bool is_wanted = true;
  options_.is_wanted = [&] { return is_wanted; };
  read(cluster, [&](const token& one) { is_wanted = one.position < 2; });
  EXPECT_EQ(tokens_.size(), 3U);
  EXPECT_TRUE(router.wait_until([&] { return has_cancelled(router, 3); }));
  EXPECT_EQ(router.hellos(), 1) << "the connection goes on";
}

TEST_F(stream_test, tokenizes_and_back) {
  fake_router router(address(), [](fake_router& r, const request& asked) {
    const auto& body = asked.envelope.tokenize();
    proto::RouterToClient envelope;
    auto& reply = *envelope.mutable_tokenize();
    reply.set_request_id(body.request_id());
    for (const char c : body.text()) reply.add_tokens(static_cast<std::uint32_t>(c));
    for (const auto id : body.tokens().ids()) reply.mutable_text()->push_back(static_cast<char>(id));
    r.send(asked.peer, wire::outgoing_message(asked.kind), envelope);
  });
  auto cluster = connect();
  EXPECT_THAT(cluster.tokenize("hi"), ElementsAre('h', 'i'));
  EXPECT_EQ(cluster.detokenize({'o', 'k'}), "ok");
}

// -- what a stream makes of events ------------------------------------------------------------------------------------

std::vector<std::uint32_t> positions(const result<std::vector<token>>& tokens) {
  std::vector<std::uint32_t> found;
  for (const auto& one : tokens.value()) found.push_back(one.position);
  return found;
}

proto::GenerateEvent join(std::initializer_list<proto::GenerateEvent> events) {
  proto::GenerateEvent all;
  for (const auto& event : events) all.MergeFrom(event);
  return all;
}

TEST(token_stream, p3_tells_each_token_once_and_notices_a_gap) {
  token_stream stream("x", {}, 1);
  EXPECT_THAT(positions(stream.absorb(join({tale.token(0), tale.token(1)}))), ElementsAre(0, 1));
  EXPECT_THAT(positions(stream.absorb(join({tale.token(0), tale.token(1), tale.token(2)}))), ElementsAre(2));
  const auto gap = stream.absorb(tale.token(4));
  ASSERT_FALSE(gap);
  EXPECT_EQ(gap.error().code, errc::corrupt);
  EXPECT_THAT(stream.request(9, "me", 5).generate().resumed(), ElementsAre(100, 101, 102));
}

TEST(token_stream, the_last_token_has_the_reason_whenever_it_comes) {
  generate_options options;
  options.max_tokens = 2;
  token_stream stream("x", options, 1);
  ASSERT_TRUE(stream.absorb(story::accepted(stream.request(1, "me", 5).generate())));
  EXPECT_THAT(positions(stream.absorb(join({tale.token(0), tale.token(1)}))), ElementsAre(0));
  const auto last = stream.absorb(tale.end());
  ASSERT_THAT(positions(last), ElementsAre(1));
  EXPECT_EQ(last->front().reason, finish_reason::length);
}

TEST(token_stream, text_that_was_held_back_is_not_lost) {
  auto end = tale.end();
  end.mutable_end()->set_text("tail");
  token_stream together("x", {}, 1);
  EXPECT_EQ(together.absorb(join({tale.token(0), end}))->front().text, "0 tail");
  token_stream apart("x", {}, 1);
  ASSERT_TRUE(apart.absorb(tale.token(0)));
  const auto rest = apart.absorb(end);
  ASSERT_EQ(rest->size(), 1U);
  EXPECT_EQ(rest->front().id, std::nullopt);
  EXPECT_EQ(rest->front().text, "tail");
}

TEST(token_stream, the_request_says_all_that_was_asked) {
  generate_options options;
  options.max_tokens = 4;
  options.temperature = 0.0F;
  options.top_k = 5;
  options.top_p = 0.5F;
  options.min_p = 0.25F;
  options.repetition_penalty = 1.5F;
  options.presence_penalty = 1.0F;
  options.frequency_penalty = -1.0F;
  options.logit_bias = {{7, 2.5F}};
  options.stop = {"end"};
  options.stop_token_ids = {3};
  options.ignore_eos = true;
  options.logprobs = false;
  options.top_logprobs = 2;
  options.skip_special_tokens = false;
  options.add_special_tokens = false;
  options.policy = degrade::renormalise;
  token_stream stream(chat_messages{"[]"}, options, 11);
  const auto& body = stream.request(9, "me", 5000).generate();
  EXPECT_EQ(body.messages_json(), "[]");
  EXPECT_EQ(body.max_tokens(), 4U);
  EXPECT_TRUE(body.sampling().has_temperature());
  EXPECT_EQ(body.sampling().top_k(), 5U);
  EXPECT_EQ(body.sampling().top_p(), 0.5F);
  EXPECT_EQ(body.sampling().min_p(), 0.25F);
  EXPECT_EQ(body.sampling().repetition_penalty(), 1.5F);
  EXPECT_EQ(body.sampling().presence_penalty(), 1);
  EXPECT_EQ(body.sampling().frequency_penalty(), -1);
  EXPECT_EQ(body.sampling().logit_bias().at(7), 2.5F);
  EXPECT_EQ(body.sampling().seed(), 11U);
  EXPECT_THAT(body.stop(), ElementsAre("end"));
  EXPECT_THAT(body.stop_token_ids(), ElementsAre(3));
  EXPECT_TRUE(body.ignore_eos());
  EXPECT_FALSE(body.logprobs());
  EXPECT_EQ(body.top_logprobs(), 2U);
  EXPECT_FALSE(body.skip_special_tokens());
  EXPECT_FALSE(body.add_special_tokens());
  EXPECT_EQ(body.degrade(), proto::RENORMALISE);
  EXPECT_EQ(body.timeout_ms(), 5000U);
  EXPECT_FALSE(token_stream(token_ids{1}, {}, 1).request(1, "me", 0).generate().has_max_tokens());
}

}  // namespace
}  // namespace troupe::client
