// Text from a cluster: what is asked of cluster::generate, and the tokens that come. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace troupe::client {

// What happens to the rows of an expert without a replica. wait: until one is back, at most until the timeout.
enum class degrade : std::uint8_t { wait = 1, substitute = 2, renormalise = 3, fail = 4 };

using token_ids = std::vector<std::uint32_t>;

// A JSON list of chat messages, [{"role": "user", "content": "..."}]; put together by the model's chat template.
struct chat_messages {
  std::string json;
};

// Text (special tokens that stand in it are recognised), token ids, or a chat.
class prompt {
 public:
  prompt(std::string text) : given_(std::move(text)) {}            // NOLINT(google-explicit-constructor)
  prompt(std::string_view text) : given_(std::string(text)) {}     // NOLINT(google-explicit-constructor)
  prompt(const char* text) : given_(std::string(text)) {}          // NOLINT(google-explicit-constructor)
  prompt(token_ids tokens) : given_(std::move(tokens)) {}          // NOLINT(google-explicit-constructor)
  prompt(chat_messages messages) : given_(std::move(messages)) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] const std::variant<std::string, token_ids, chat_messages>& given() const noexcept { return given_; }

 private:
  std::variant<std::string, token_ids, chat_messages> given_;
};

// Names and ranges are those of the HTTP API. What is not set has the default that stands beside it.
struct generate_options {
  std::optional<std::uint32_t> max_tokens;  // what the context has room for
  std::optional<float> temperature;         // 1; 0: greedy
  std::optional<std::uint32_t> top_k;       // 0: all
  std::optional<float> top_p;               // 1
  std::optional<float> min_p;               // 0
  std::optional<float> repetition_penalty;  // 1
  std::optional<float> presence_penalty;    // 0
  std::optional<float> frequency_penalty;   // 0
  std::map<std::uint32_t, float> logit_bias;
  std::optional<std::uint64_t> seed;  // drawn
  std::vector<std::string> stop;
  token_ids stop_token_ids;
  bool ignore_eos{};
  bool logprobs{true};
  std::uint32_t top_logprobs{};
  bool skip_special_tokens{true};
  bool add_special_tokens{true};  // prompts that are text
  degrade policy{degrade::wait};
  std::chrono::milliseconds timeout{600'000};  // for the whole answer; at most an hour
  // Asked about ten times a second while nothing comes; false ends the stream. Empty: wanted to the end.
  std::function<bool()> is_wanted;
};

enum class finish_reason : std::uint8_t { none, stop, length };

struct token_alternative {
  std::uint32_t id{};
  float logprob{};
  std::string text;
};

struct token {
  std::optional<std::uint32_t> id;  // none: text that was held back and comes after the last token
  std::uint32_t position{};         // in the answer, from 0
  std::string text;                 // what became complete with it; often empty. Together they are the answer
  std::optional<float> logprob;     // natural, before temperature and cuts
  std::vector<token_alternative> top;
  std::uint8_t flags{};  // 0: exact, else bits as of layer_result::flags()
  std::vector<std::uint32_t> inexact_layers;
  finish_reason reason{finish_reason::none};  // of the last one
  [[nodiscard]] bool exact() const noexcept { return flags == 0; }
};

struct generate_summary {
  finish_reason reason{finish_reason::none};  // none: the caller ended it
  std::optional<std::string> stop_match;
  std::uint64_t seed{};
  std::uint32_t prompt_tokens{};
  std::uint32_t cached_tokens{};  // of the prompt, in the router's prefix cache
  std::uint32_t answer_tokens{};
  std::uint32_t approximate_tokens{};
};

}  // namespace troupe::client
