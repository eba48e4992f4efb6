// What a client asks of /v1/completions and /v1/chat/completions: the body read, checked and turned into tokens. Pure;
// what the fuzzer calls.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

#include "router_node/core/generation.hpp"
#include "router_node/shell/openai_fields.hpp"

namespace troupe::model {
class chat_template;
class tokenizer;
}  // namespace troupe::model

namespace troupe::router {

// The model as the doors see it. The pointers outlive the server.
struct served_model {
  std::string name{};
  std::string fingerprint{};  // `system_fingerprint` of answers; empty: none
  generation_limits limits{};
  const model::tokenizer* tokenizer{};                                      // nullptr: only token ids are understood
  const model::chat_template* chat_template{};                              // nullptr: no chat
  std::string no_tokenizer{"the folder holds no tokenizer.json"};           // why there is none
  std::string no_chat_template{"the folder holds no chat_template.jinja"};  // the same
};

struct text_prompt {
  std::string text;  // for "echo"; empty when token ids were sent
  std::vector<token_number> tokens;
};

struct text_request {
  bool is_chat{};
  bool streams{};
  bool includes_usage{};  // stream_options.include_usage
  bool echoes{};
  bool returns_token_ids{};
  bool hides_answer{};       // max_tokens 0 with echo: only the prompt's log probabilities are wanted
  std::uint32_t choices{1};  // n, per prompt
  std::vector<text_prompt> prompts;
  generation_request settings;       // of every choice; without prompt; the seed of choice 0
  std::vector<std::string> ignored;  // names of unknown fields, for the log
};

struct request_arrival {
  time_point now;
  std::int64_t local_seconds{};  // of the clock on the wall, for templates that name the date
  std::uint64_t seed{};          // when the client names none
  std::string client;
};

[[nodiscard]] tl::expected<text_request, request_refusal> read_completion(const served_model& model,
                                                                          std::string_view body,
                                                                          const request_arrival& arrival);
[[nodiscard]] tl::expected<text_request, request_refusal> read_chat(const served_model& model, std::string_view body,
                                                                    const request_arrival& arrival);

// The jobs of a request, prompt by prompt and choice by choice.
[[nodiscard]] std::vector<generation_request> jobs_of(const text_request& request);

// {"content", "add_special"} -> {"tokens"}, and {"tokens"} -> {"content"}.
[[nodiscard]] tl::expected<std::string, request_refusal> answer_tokenize(const served_model& model,
                                                                         std::string_view body);
[[nodiscard]] tl::expected<std::string, request_refusal> answer_detokenize(const served_model& model,
                                                                           std::string_view body);

}  // namespace troupe::router
