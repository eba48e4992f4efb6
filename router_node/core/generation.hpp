// One request for text (or token ids) and what comes back, whichever door it came through. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "router_node/core/types.hpp"

namespace troupe::router {

// How the next token is chosen, in this order: penalties and logit_bias on the logits, temperature, top_k, top_p,
// min_p. Names, ranges and defaults are OpenAI's and vLLM's.
struct sampling_settings {
  float temperature{1.0F};         // >= 0; 0: greedy
  std::uint32_t top_k{};           // 0: all
  float top_p{1.0F};               // (0, 1]
  float min_p{};                   // [0, 1], of the largest probability
  float repetition_penalty{1.0F};  // > 0; on tokens of prompt and answer (CTRL, section 4.1)
  float presence_penalty{};        // [-2, 2]; on tokens of the answer
  float frequency_penalty{};       // [-2, 2]
  std::map<token_number, float> logit_bias;
  // The token at position p is drawn with hash(seed, p): the same text whatever else is in the batch and whichever
  // router goes on with it.
  std::uint64_t seed{};
};

struct generation_request {
  std::vector<token_number> prompt;  // [1, context)
  // The beginning of the answer that another router gave already: counts as answered, is not sent again.
  std::vector<token_number> resumed;
  sampling_settings sampling;
  std::uint32_t max_tokens{};                // of the answer, `resumed` included; >= 1
  std::vector<std::string> stop;             // not part of the text that is sent
  std::vector<token_number> stop_token_ids;  // besides the model's own end tokens
  bool ignore_eos{};
  std::uint32_t top_logprobs{};  // alternatives per token; limits::top_logprobs_max
  bool wants_logprobs{};
  bool wants_prompt_logprobs{};  // "echo" with logprobs: a prompt_logprobs event comes before the first token
  bool skips_special{true};      // special tokens are not part of the text
  degrade policy{degrade::wait};
  time_point arrived;
  time_point deadline;
  std::string client;  // whom limits per client count: API key name, or connection
};

struct token_logprob {
  token_number id{};
  float logprob{};  // natural, of the model's distribution before temperature and cuts
};

struct prompt_logprobs {
  std::vector<std::vector<token_logprob>> tokens;  // [P]: the token itself first, then the best; empty for the first
};

struct token_event {
  token_number id{};
  std::uint32_t position{};  // in the answer, from 0, `resumed` counted
  std::string text;          // what became complete and may be shown; often empty
  float logprob{};
  std::vector<token_logprob> top;  // best first
  std::uint8_t flags{};            // 0: exact; flag_substituted, flag_renormalised, flag_refreshed
  std::vector<std::uint32_t> inexact_layers;
  bool is_last{};  // generation_end follows at once: doors may tell both together
};

enum class finish_reason : std::uint8_t { stop, length };

struct generation_end {
  finish_reason reason{finish_reason::stop};
  std::string text;  // what was held back and may be shown after all
  std::optional<std::string> stop_match;
  std::uint32_t prompt_tokens{};
  std::uint32_t cached_tokens{};  // of the prompt, found in the prefix cache
  std::uint32_t answer_tokens{};  // `resumed` included
  std::uint32_t approximate_tokens{};
};

// generation_end or error is the last one, exactly once unless cancelled.
using generation_event = std::variant<prompt_logprobs, token_event, generation_end, error>;

struct generation_job {
  generation_request request;
  std::function<void(generation_event)> on_event;  // on the engine's thread, must not block
};

// What doors have to know of the model before they accept a request.
struct generation_limits {
  std::uint32_t vocabulary{};
  std::uint32_t context_tokens{};  // prompt and answer together
};

// The way to the generation engine. Any thread.
class generation_gateway {
 public:
  virtual ~generation_gateway() = default;
  [[nodiscard]] virtual const generation_limits& limits() const = 0;
  // A number for cancel(). overloaded when too many wait (nothing is accepted then), unavailable while stopping.
  [[nodiscard]] virtual result<std::uint64_t> generate(generation_job job) = 0;
  // No event of it comes after the engine has seen this; its work stops within one step.
  virtual void cancel(std::uint64_t number) = 0;
};

}  // namespace troupe::router
