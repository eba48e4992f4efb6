// One answer in the making: takes chosen tokens, gives what the client is told. Knows when the answer is over: an end
// token, a stop string, the wanted number of tokens. Pure; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"
#include "router_node/core/generation.hpp"
#include "router_node/core/generation/stop_matcher.hpp"

namespace troupe::router {

class answer {
 public:
  // `tokenizer`: nullptr where the model has none; the text is empty then. `end_tokens`: the model's own. Both the
  // request and the tokenizer are borrowed.
  answer(const generation_request& request, const model::tokenizer* tokenizer,
         std::span<const token_number> end_tokens);

  // One more token. event.id, logprob, top and flags come filled in; position and text are set here.
  // Returns the token's event and, when it was the last one, the end.
  struct told {
    token_event event;
    std::optional<generation_end> end;
  };
  [[nodiscard]] told add(token_event event);

  [[nodiscard]] const std::vector<token_number>& tokens() const { return tokens_; }  // `resumed` included
  // True from the start when what was resumed is a whole answer: finish() gives its end.
  [[nodiscard]] bool is_over() const { return reason_.has_value(); }
  [[nodiscard]] generation_end finish();

 private:
  void take(token_number id, std::string& text);
  [[nodiscard]] bool is_end_token(token_number id) const;

  const generation_request& request_;
  std::vector<token_number> end_tokens_;
  std::optional<model::stream_decoder> decoder_;
  stop_matcher stops_;
  std::vector<token_number> tokens_;
  std::uint32_t approximate_{};
  std::optional<finish_reason> reason_;
  std::optional<std::string> stop_match_;
};

}  // namespace troupe::router
