// Requests for text between their wire form (proto/client_router.proto) and ours. Pure.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/error.hpp"
#include "router_node/core/generation.hpp"
#include "router_node/shell/text_source.hpp"

namespace troupe::proto {
enum Degrade : int;
class GenerateEvent;
class GenerateRequest;
class TokenizeReply;
class TokenizeRequest;
}  // namespace troupe::proto

namespace troupe::router {

struct text_prompt {
  std::string text;
  bool add_special{};
};
struct chat_prompt {
  std::string messages_json;
};
using prompt_source = std::variant<std::vector<token_number>, text_prompt, chat_prompt>;

[[nodiscard]] degrade to_degrade(proto::Degrade policy);

[[nodiscard]] std::size_t bytes_of(const prompt_source& source);
// invalid_request when the model has no tokenizer (chat template) for it, or the template refuses the messages.
[[nodiscard]] result<std::vector<token_number>> tokens_of(const prompt_source& source, const text_source& text);

struct asked_generation {
  prompt_source prompt;
  generation_request request;               // without prompt, client, times; max_tokens and seed may be missing
  std::optional<std::uint32_t> max_tokens;  // none: what the context has room for
  std::optional<std::uint64_t> seed;
  std::uint64_t timeout_ms{};
};

// Copies the fields and refuses what is missing or too large; values are checked by generation/request_check.hpp when
// the number of prompt tokens is known. invalid_request or too_large with the field.
[[nodiscard]] result<asked_generation> read(const proto::GenerateRequest& request);
[[nodiscard]] result<prompt_source> read(const proto::TokenizeRequest& request);

void write(proto::GenerateEvent& event, const token_event& token, bool with_logprob, const text_source& text);
void write(proto::GenerateEvent& event, const generation_end& end);

}  // namespace troupe::router
