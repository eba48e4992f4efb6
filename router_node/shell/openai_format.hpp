// The JSON of answers, in both of OpenAI's shapes: chunks of a stream and whole bodies. Pure, but for one counter of
// characters per choice.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "router_node/shell/openai_request.hpp"

namespace troupe::router {

// What is known of one choice. The door adds to it as events come.
struct text_choice {
  std::uint32_t index{};
  std::uint32_t prompt{};                   // of which prompt of the request
  std::string text{};                       // plain answers only: streams send it at once
  std::vector<token_event> tokens{};        // the same
  std::optional<prompt_logprobs> before{};  // of an echo
  std::optional<generation_end> end{};
  bool began{};              // its first chunk was sent
  std::size_t characters{};  // of the tokens listed so far: `text_offset`
};

struct text_usage {
  std::uint64_t prompt_tokens{};  // of each prompt once
  std::uint64_t answer_tokens{};
  std::uint64_t cached_tokens{};
  std::uint64_t approximate_tokens{};
};
[[nodiscard]] text_usage usage_of(const std::vector<text_choice>& choices);

class answer_format {
 public:
  // `model` and `request` outlive it.
  answer_format(const served_model& model, const text_request& request, std::string id, std::int64_t created);

  // -- events of a stream, each "data: ...\n\n"
  // The first event of a choice: the assistant's role, or the prompt's text when it is to be echoed.
  [[nodiscard]] std::string opening(text_choice& choice) const;
  // Empty when there is nothing to tell of this token yet.
  [[nodiscard]] std::string token(text_choice& choice, const token_event& event) const;
  [[nodiscard]] std::string ending(text_choice& choice, const generation_end& end) const;
  [[nodiscard]] std::string usage(const text_usage& used) const;
  [[nodiscard]] static std::string failure(const request_refusal& refusal);
  [[nodiscard]] static std::string done() { return "data: [DONE]\n\n"; }

  // -- the body of a plain answer
  [[nodiscard]] std::string body(std::vector<text_choice>& choices) const;

 private:
  struct piece;
  [[nodiscard]] std::string event(const text_choice& choice, const piece& what) const;
  [[nodiscard]] std::string token_text(token_number id) const;
  [[nodiscard]] nlohmann::json listed(const token_logprob& entry) const;
  [[nodiscard]] nlohmann::json logprobs(text_choice& choice, const std::vector<const token_event*>& tokens,
                                        const prompt_logprobs* before) const;
  [[nodiscard]] nlohmann::json chat_logprobs(const std::vector<const token_event*>& tokens) const;
  [[nodiscard]] nlohmann::json choice_body(text_choice& choice) const;

  const served_model& model_;
  const text_request& request_;
  std::string head_;        // of a chunk, up to the choices
  std::string whole_head_;  // of a body
};

// The body of an OpenAI error object.
[[nodiscard]] nlohmann::json error_object(const request_refusal& refusal);

}  // namespace troupe::router
