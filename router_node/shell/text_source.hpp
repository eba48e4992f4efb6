// What the doors (ZeroMQ, HTTP) need to serve text: the engine, and the model's way from text to tokens and back.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router {

// Plain functions, so that doors and their tests need no tokenizer. All may be called from many threads at once. An
// empty one: the checkpoint has no tokenizer, or no chat template; token ids work all the same (faults.md C7).
struct text_source {
  generation_gateway* engine{};  // borrowed; never null
  std::function<std::vector<token_number>(std::string_view text, bool add_special)> encode;
  std::function<std::string(std::span<const token_number> tokens, bool skip_special)> decode;
  // Bytes of one token as text for people: for the alternatives of top_logprobs.
  std::function<std::string(token_number)> text_of;
  // A JSON list of messages -> the prompt's text, ready for the answer.
  std::function<result<std::string>(std::string_view messages_json)> render;
};

}  // namespace troupe::router
