// Bodies of /v1/completions and /v1/chat/completions: what is understood, and what is refused by which field
// (faults.md W6, W14, W15, W16, C7).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/chat_template/chat_template.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "router_node/shell/openai_request.hpp"

namespace troupe::router {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path folder = std::filesystem::path(TROUPE_SOURCE_DIR) / "tests/golden/dev/tokenizer";

class openai_requests : public ::testing::Test {
 protected:
  openai_requests() {
    auto tokenizer = model::tokenizer::open(folder);
    auto chat = model::chat_template::open(folder);
    EXPECT_TRUE(tokenizer && chat);
    tokenizer_ = std::move(*tokenizer);
    chat_ = std::move(*chat);
    model_ = {
        .name = "m", .limits = {tokenizer_->size(), 100}, .tokenizer = tokenizer_.get(), .chat_template = chat_.get()};
  }

  // The fields behind a prompt of three tokens, or behind a message.
  [[nodiscard]] tl::expected<text_request, request_refusal> completion(const std::string& fields) const {
    return read_completion(model_, R"({"prompt": [5, 6, 7])" + (fields.empty() ? "" : ", " + fields) + "}", arrival_);
  }
  [[nodiscard]] tl::expected<text_request, request_refusal> chat(const std::string& fields) const {
    const std::string messages = R"({"messages": [{"role": "user", "content": "Hi there"}])";
    return read_chat(model_, messages + (fields.empty() ? "" : ", " + fields) + "}", arrival_);
  }
  [[nodiscard]] tl::expected<text_request, request_refusal> messages(const std::string& list) const {
    return read_chat(model_, R"({"messages": )" + list + "}", arrival_);
  }

  // The field at fault.
  static std::string param(const tl::expected<text_request, request_refusal>& read) {
    EXPECT_FALSE(read);
    if (read) return "(accepted)";
    EXPECT_FALSE(read.error().reason.message.empty());
    EXPECT_TRUE(read.error().reason.code == errc::invalid_request || read.error().reason.code == errc::not_found);
    return read.error().param;
  }

  std::unique_ptr<const model::tokenizer> tokenizer_;
  std::unique_ptr<const model::chat_template> chat_;
  served_model model_;
  request_arrival arrival_{.now = time_point(1000s), .seed = 77, .client = "alice"};
};

TEST_F(openai_requests, defaults_are_those_of_openai) {
  const auto read = completion("");
  ASSERT_TRUE(read) << read.error().reason.message;
  const auto& settings = read->settings;
  EXPECT_FALSE(read->streams || read->includes_usage || read->echoes || read->returns_token_ids || read->hides_answer);
  EXPECT_EQ(read->choices, 1U);
  EXPECT_EQ(settings.max_tokens, 16U);
  EXPECT_EQ(settings.sampling.temperature, 1.0F);
  EXPECT_EQ(settings.sampling.top_p, 1.0F);
  EXPECT_EQ(settings.sampling.top_k, 0U);
  EXPECT_EQ(settings.sampling.seed, 77U);
  EXPECT_EQ(settings.policy, degrade::wait);
  EXPECT_EQ(settings.deadline, arrival_.now + limits::generation_timeout_default);
  EXPECT_EQ(settings.client, "alice");
  EXPECT_THAT(read->prompts.at(0).tokens, ElementsAre(5, 6, 7));
  EXPECT_EQ(chat("")->settings.max_tokens, 100 - chat("")->prompts.at(0).tokens.size());
}

TEST_F(openai_requests, every_field_arrives) {
  const auto read = completion(
      R"("model": "m", "stream": true, "stream_options": {"include_usage": true}, "n": 3, "best_of": 3, "echo": true, "logprobs": 4,
         "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.2,
         "presence_penalty": -1, "frequency_penalty": 2, "seed": -5, "logit_bias": {"7": -100, "8": 1.5}, "stop": ["a", "bc"],
         "stop_token_ids": [3], "ignore_eos": true, "skip_special_tokens": false, "return_token_ids": true, "degrade": "substitute",
         "timeout_ms": 1500, "user": "u", "mood": 1, "suffix": null, "tools": [], "response_format": {"type": "text"})");
  ASSERT_TRUE(read) << read.error().reason.message;
  const auto& s = read->settings;
  EXPECT_TRUE(read->streams && read->includes_usage && read->echoes && read->returns_token_ids && s.ignore_eos &&
              s.wants_logprobs && s.wants_prompt_logprobs && !s.skips_special);
  EXPECT_EQ(read->choices, 3U);
  EXPECT_EQ(s.top_logprobs, 4U);
  EXPECT_EQ(s.max_tokens, 9U);
  EXPECT_EQ(s.sampling.temperature, 0.5F);
  EXPECT_EQ(s.sampling.top_p, 0.9F);
  EXPECT_EQ(s.sampling.top_k, 40U);
  EXPECT_EQ(s.sampling.min_p, 0.1F);
  EXPECT_EQ(s.sampling.repetition_penalty, 1.2F);
  EXPECT_EQ(s.sampling.presence_penalty, -1.0F);
  EXPECT_EQ(s.sampling.frequency_penalty, 2.0F);
  EXPECT_EQ(s.sampling.seed, static_cast<std::uint64_t>(-5));
  EXPECT_EQ(s.sampling.logit_bias.at(7), -100.0F);
  EXPECT_EQ(s.sampling.logit_bias.at(8), 1.5F);
  EXPECT_THAT(s.stop, ElementsAre("a", "bc"));
  EXPECT_THAT(s.stop_token_ids, ElementsAre(3));
  EXPECT_EQ(s.policy, degrade::substitute);
  EXPECT_EQ(s.deadline, arrival_.now + 1500ms);
  EXPECT_THAT(read->ignored, ElementsAre("mood"));
}

TEST_F(openai_requests, prompts_come_in_four_forms) {
  const auto prompts = [this](const std::string& prompt) {
    auto read = read_completion(model_, R"({"prompt": )" + prompt + "}", arrival_);
    EXPECT_TRUE(read) << prompt;
    return read ? read->prompts : std::vector<text_prompt>{};
  };
  EXPECT_EQ(prompts(R"("Hi there")").at(0).tokens, tokenizer_->encode("Hi there", true));
  EXPECT_EQ(prompts(R"("Hi there")").at(0).text, "Hi there");
  EXPECT_EQ(prompts(R"(["Hi", "there"])").size(), 2U);
  EXPECT_THAT(prompts("[1, 2]").at(0).tokens, ElementsAre(1, 2));
  EXPECT_THAT(prompts("[[1], [2, 3]]").at(1).tokens, ElementsAre(2, 3));
}

TEST_F(openai_requests, a_seed_may_use_all_64_bits) {
  const auto seed = [this](const std::string& text) {
    const auto read = read_completion(model_, fmt::format(R"({{"prompt": [1], "seed": {}}})", text), arrival_);
    return read ? read->settings.sampling.seed : 0;
  };
  EXPECT_EQ(seed("9223372036854775808"), 9223372036854775808U);
  EXPECT_EQ(seed("18446744073709551615"), 18446744073709551615U);
  EXPECT_EQ(seed("-1"), 18446744073709551615U) << "the same, as signed numbers have it";
  EXPECT_EQ(seed("18446744073709551616"), 0U) << "refused";
}

TEST_F(openai_requests, choices_have_seeds_of_their_own) {
  const auto jobs = jobs_of(*read_completion(model_, R"({"prompt": [[1], [2]], "n": 2, "seed": 5})", arrival_));
  ASSERT_EQ(jobs.size(), 4U);
  EXPECT_EQ(jobs[0].sampling.seed, 5U);
  EXPECT_NE(jobs[1].sampling.seed, 5U);
  EXPECT_EQ(jobs[2].sampling.seed, jobs[0].sampling.seed);
  EXPECT_EQ(jobs[3].sampling.seed, jobs[1].sampling.seed);
  EXPECT_THAT(jobs[3].prompt, ElementsAre(2));
}

TEST_F(openai_requests, w14_wrong_values_name_their_field) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"n", "1000000000"},
      {"n", "17"},
      {"n", "0"},
      {"n", "1.5"},
      {"n", "\"2\""},
      {"max_tokens", "-1"},
      {"max_tokens", "0"},
      {"max_tokens", "1e300"},
      {"max_tokens", "true"},
      {"max_completion_tokens", "-1"},
      {"temperature", "-0.1"},
      {"temperature", "2.1"},
      {"temperature", "\"hot\""},
      {"top_p", "0"},
      {"top_p", "1.1"},
      {"top_k", "-2"},
      {"min_p", "2"},
      {"repetition_penalty", "0"},
      {"presence_penalty", "3"},
      {"frequency_penalty", "-3"},
      {"seed", "\"x\""},
      {"seed", "1.5"},
      {"stream", "1"},
      {"stream_options", "{\"include_usage\": true}"},
      {"stop", "5"},
      {"stop", "[\"\"]"},
      {"stop", "[1]"},
      {"stop",
       "[\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\",\"1\"]"},
      {"stop_token_ids", "3"},
      {"stop_token_ids", "[-1]"},
      {"logit_bias", "[]"},
      {"logit_bias", "{\"x\": 1}"},
      {"logit_bias", "{\"1\": 101}"},
      {"logit_bias", "{\"1\": null}"},
      {"logit_bias", "{\"99999999999\": 1}"},
      {"logit_bias", "{\"-1\": 1}"},
      {"ignore_eos", "\"yes\""},
      {"degrade", "\"hope\""},
      {"timeout_ms", "-1"},
      {"timeout_ms", "99999999999"},
      {"model", "5"},
      {"best_of", "2"},
      {"echo", "\"x\""}};
  for (const auto& [field, value] : cases) {
    EXPECT_EQ(param(completion(fmt::format("\"{}\": {}", field, value))), field) << value;
  }
  EXPECT_EQ(param(completion("\"logprobs\": 21")), "logprobs");
  EXPECT_EQ(param(chat("\"logprobs\": 1")), "logprobs");
  EXPECT_EQ(param(chat("\"top_logprobs\": 3")), "top_logprobs");
  EXPECT_EQ(param(chat("\"logprobs\": true, \"top_logprobs\": 21")), "top_logprobs");
  EXPECT_EQ(param(chat("\"chat_template_kwargs\": 3")), "chat_template_kwargs");
}

TEST_F(openai_requests, w14_unsupported_parameters_are_refused_by_name) {
  for (const auto* field :
       {"\"tools\": [{}]", "\"tool_choice\": \"auto\"", "\"functions\": [{}]", "\"function_call\": \"auto\"",
        "\"suffix\": \"x\"", "\"response_format\": {\"type\": \"json_object\"}", "\"response_format\": \"json\"",
        "\"modalities\": [\"audio\"]", "\"audio\": {\"voice\": \"x\"}", "\"guided_json\": {\"a\": 1}",
        "\"min_tokens\": 2", "\"use_beam_search\": true", "\"prompt_logprobs\": 1", "\"prediction\": {\"a\": 1}",
        "\"web_search_options\": {\"a\": 1}"}) {
    const std::string text = field;
    const auto refused = chat(text);
    EXPECT_EQ(param(refused), text.substr(1, text.find('"', 1) - 1));
    EXPECT_EQ(refused.error().code, "unsupported_parameter");
  }
  EXPECT_EQ(param(chat("\"echo\": true")), "echo");
}

TEST_F(openai_requests, w14_unknown_models_are_not_found) {
  const auto refused = completion("\"model\": \"gpt-4\"");
  EXPECT_EQ(param(refused), "model");
  EXPECT_EQ(refused.error().reason.code, errc::not_found);
  EXPECT_EQ(refused.error().code, "model_not_found");
}

TEST_F(openai_requests, w14_bodies_that_are_no_request) {
  for (const auto* body : {"", "nope", "[]", "1", "{\"prompt\": [1], \"temperature\": NaN}", "{\"prompt\": \"\xff\"}",
                           "{\"prompt\": [1]} x", "{\"prompt\": [1], \"prompt\": [2]}", "{\"prompt\": \"\\ud800\"}"}) {
    EXPECT_EQ(param(read_completion(model_, body, arrival_)), "") << body;
    EXPECT_EQ(param(read_chat(model_, body, arrival_)), "") << body;
  }
  for (const auto* prompt : {"null", "{}", "true", "1", "[]", "[[]]", "[\"a\", 1]", "[[1], \"a\", {}]", "[null]"}) {
    EXPECT_EQ(param(read_completion(model_, std::string(R"({"prompt": )") + prompt + "}", arrival_)), "prompt")
        << prompt;
  }
}

TEST_F(openai_requests, w6_nesting_is_bounded) {
  const auto deep = std::string(10'000, '[') + std::string(10'000, ']');
  const auto refused = read_completion(model_, R"({"prompt": )" + deep + "}", arrival_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().reason.message, HasSubstr("nested deeper than 64"));
  std::string objects;
  for (int i = 0; i < 10'000; ++i) objects += "{\"a\":";
  EXPECT_FALSE(read_chat(model_, R"({"messages": )" + objects, arrival_));
}

TEST_F(openai_requests, w15_prompts_longer_than_the_context_name_both_numbers) {
  std::string ids = "[1";
  for (int i = 1; i < 100; ++i) ids += ",1";
  auto refused = read_completion(model_, R"({"prompt": )" + ids + "]}", arrival_);
  EXPECT_EQ(param(refused), "prompt");
  EXPECT_EQ(refused.error().code, "context_length_exceeded");
  EXPECT_THAT(refused.error().reason.message, HasSubstr("100 tokens, the prompt has 100"));
  refused = completion("\"max_tokens\": 98");
  EXPECT_EQ(param(refused), "max_tokens");
  EXPECT_EQ(refused.error().code, "context_length_exceeded");
  EXPECT_TRUE(completion("\"max_tokens\": 97"));
  refused = messages(R"([{"role": "user", "content": ")" + std::string(1000, 'x') + R"("}])");
  EXPECT_EQ(param(refused), "messages");
  EXPECT_EQ(refused.error().code, "context_length_exceeded");
}

TEST_F(openai_requests, w16_token_ids_beyond_the_vocabulary) {
  for (const auto& bad : {std::to_string(tokenizer_->size()), std::string("-1"), std::string("4294967296"),
                          std::string("1.5"), std::string("18446744073709551615"), std::string("\"a\"")}) {
    const auto refused = read_completion(model_, R"({"prompt": [[1, )" + bad + "]]}", arrival_);
    EXPECT_EQ(param(refused), "prompt") << bad;
    EXPECT_THAT(refused.error().reason.message, HasSubstr("at position 1")) << bad;
  }
}

TEST_F(openai_requests, max_tokens_0_with_echo_asks_for_the_prompt_alone) {
  const auto read = completion("\"echo\": true, \"logprobs\": 1, \"max_tokens\": 0");
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->hides_answer);
  EXPECT_EQ(read->settings.max_tokens, 1U);
}

TEST_F(openai_requests, messages_become_the_text_of_the_template) {
  EXPECT_EQ(chat("")->prompts.at(0).text, "<|bos|><|user|>Hi there<|assistant|>");
  EXPECT_EQ(chat("\"add_generation_prompt\": false")->prompts.at(0).text, "<|bos|><|user|>Hi there");
  EXPECT_EQ(chat("")->prompts.at(0).tokens, tokenizer_->encode("<|bos|><|user|>Hi there<|assistant|>", false));
  const auto parts =
      messages(R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])");
  ASSERT_TRUE(parts) << parts.error().reason.message;
  EXPECT_EQ(parts->prompts.at(0).text, "<|bos|><|user|>a\nb<|assistant|>");
}

TEST_F(openai_requests, w14_messages_that_cannot_be_used) {
  for (const auto* list : {"null", "[]", "{}", "\"hi\""}) EXPECT_EQ(param(messages(list)), "messages") << list;
  const std::vector<std::pair<std::string, std::string>> cases{
      {"1", "messages[0]"},
      {"{}", "messages[0].role"},
      {R"({"role": "tool", "content": "x"})", "messages[0].role"},
      {R"({"role": 5, "content": "x"})", "messages[0].role"},
      {R"({"role": "user"})", "messages[0].content"},
      {R"({"role": "user", "content": null})", "messages[0].content"},
      {R"({"role": "user", "content": 5})", "messages[0].content"},
      {R"({"role": "user", "content": []})", "messages[0].content"},
      {R"({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})",
       "messages[0].content[0].type"},
      {R"({"role": "user", "content": [{"type": "text"}]})", "messages[0].content[0].type"},
      {R"({"role": "user", "content": ["x"]})", "messages[0].content[0].type"},
      {R"({"role": "assistant", "content": "x", "tool_calls": [{}]})", "messages[0].tool_calls"}};
  for (const auto& [message, field] : cases) EXPECT_EQ(param(messages("[" + message + "]")), field) << message;
}

TEST_F(openai_requests, what_the_template_says_is_told) {
  const auto strict = *model::chat_template::parse("{{ raise_exception('users begin') }}");
  model_.chat_template = strict.get();
  const auto refused = chat("");
  EXPECT_EQ(param(refused), "messages");
  EXPECT_EQ(refused.error().reason.message, "users begin");
}

TEST_F(openai_requests, c7_without_a_tokenizer_token_ids_still_work) {
  model_.tokenizer = nullptr;
  const auto read = completion("");
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->returns_token_ids);
  const auto refused = read_completion(model_, R"({"prompt": "text"})", arrival_);
  EXPECT_EQ(param(refused), "prompt");
  EXPECT_EQ(refused.error().code, "no_tokenizer");
  EXPECT_EQ(param(completion("\"stop\": \"x\"")), "stop");
  EXPECT_EQ(chat("").error().code, "no_tokenizer");
  EXPECT_EQ(answer_tokenize(model_, R"({"content": "x"})").error().code, "no_tokenizer");
}

TEST_F(openai_requests, c7_without_a_template_there_is_no_chat) {
  model_.chat_template = nullptr;
  model_.no_chat_template = "3:5: construct {% x %} is not supported";
  EXPECT_EQ(chat("").error().code, "no_chat_template");
  EXPECT_THAT(chat("").error().reason.message, HasSubstr("construct {% x %}"));
  EXPECT_TRUE(completion(""));
}

TEST_F(openai_requests, tokenize_and_detokenize) {
  EXPECT_EQ(answer_tokenize(model_, R"({"content": "hello world"})"), R"({"tokens":[287,406,83,335,273,80,72]})");
  EXPECT_EQ(answer_tokenize(model_, R"({"content": "hello world", "add_special": true})"),
            R"({"tokens":[0,287,406,83,335,273,80,72]})");
  EXPECT_EQ(answer_detokenize(model_, R"({"tokens": [287,406,83,335,273,80,72]})"), R"({"content":"hello world"})");
  EXPECT_EQ(answer_tokenize(model_, "{}").error().param, "content");
  EXPECT_EQ(answer_detokenize(model_, R"({"tokens": [999999]})").error().param, "tokens");
  EXPECT_EQ(answer_detokenize(model_, R"({"tokens": "x"})").error().param, "tokens");
}

}  // namespace
}  // namespace troupe::router
