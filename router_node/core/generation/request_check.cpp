#include "router_node/core/generation/request_check.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

result<void> refuse(std::string message) { return fail(errc::invalid_request, std::move(message)); }

result<void> check_range(std::string_view name, float value, double low, double high) {
  if (std::isfinite(value) && value >= static_cast<float>(low) && value <= static_cast<float>(high)) return {};
  return refuse(fmt::format("{}: {}; use a number from {} to {}", name, value, low, high));
}

// In (0, high].
result<void> check_positive(std::string_view name, float value, float high) {
  if (std::isfinite(value) && value > 0 && value <= high) return {};
  return refuse(fmt::format("{}: {}; use a number above 0 and at most {}", name, value, high));
}

result<void> check_tokens(std::string_view name, std::span<const token_number> tokens, const generation_limits& model) {
  const auto bad = std::ranges::find_if(tokens, [&](token_number id) { return id >= model.vocabulary; });
  if (bad == tokens.end()) return {};
  return refuse(fmt::format("{}[{}]: no token {}; this model's are 0 to {}", name, bad - tokens.begin(), *bad,
                            model.vocabulary - 1));
}

result<void> check_lengths(const generation_request& request, const generation_limits& model) {
  const auto prompt = request.prompt.size();
  if (prompt == 0) return refuse("prompt: it is empty; give at least one token");
  if (prompt >= model.context_tokens) {
    return refuse(
        fmt::format("prompt: {} tokens, this model's context has {} for prompt and answer; shorten the prompt", prompt,
                    model.context_tokens));
  }
  if (request.max_tokens == 0) return refuse("max_tokens: 0; use at least 1");
  if (request.max_tokens > model.context_tokens - prompt) {
    return refuse(fmt::format("max_tokens: {}, but {} tokens of prompt leave {} of this model's context of {}",
                              request.max_tokens, prompt, model.context_tokens - prompt, model.context_tokens));
  }
  if (request.resumed.size() > request.max_tokens) {
    return refuse(
        fmt::format("resumed: {} tokens, more than max_tokens {}", request.resumed.size(), request.max_tokens));
  }
  return {};
}

result<void> check_stops(const generation_request& request, const generation_limits& model) {
  if (request.stop.size() > limits::stop_strings_max) {
    return refuse(fmt::format("stop: {} strings, at most {}", request.stop.size(), limits::stop_strings_max));
  }
  for (std::size_t i = 0; i < request.stop.size(); ++i) {
    const auto bytes = request.stop[i].size();
    if (bytes >= 1 && bytes <= limits::stop_string_bytes_max) continue;
    return refuse(fmt::format("stop[{}]: {} bytes; use 1 to {}", i, bytes, limits::stop_string_bytes_max));
  }
  if (request.stop_token_ids.size() > limits::stop_token_ids_max) {
    return refuse(
        fmt::format("stop_token_ids: {} ids, at most {}", request.stop_token_ids.size(), limits::stop_token_ids_max));
  }
  return check_tokens("stop_token_ids", request.stop_token_ids, model);
}

result<void> check_bias(const sampling_settings& sampling, const generation_limits& model) {
  if (sampling.logit_bias.size() > limits::logit_bias_entries_max) {
    return refuse(
        fmt::format("logit_bias: {} tokens, at most {}", sampling.logit_bias.size(), limits::logit_bias_entries_max));
  }
  for (const auto& [id, bias] : sampling.logit_bias) {
    if (id >= model.vocabulary) {
      return refuse(fmt::format("logit_bias: no token {}; this model's are 0 to {}", id, model.vocabulary - 1));
    }
    if (auto fine = check_range(fmt::format("logit_bias of token {}", id), bias, -limits::logit_bias_max,
                                limits::logit_bias_max);
        !fine)
      return fine;
  }
  return {};
}

}  // namespace

result<void> check(const sampling_settings& sampling, const generation_limits& model) {
  for (const auto& fine : {check_range("temperature", sampling.temperature, 0, limits::temperature_max),
                           check_positive("top_p", sampling.top_p, 1), check_range("min_p", sampling.min_p, 0, 1),
                           check_range("repetition_penalty", sampling.repetition_penalty,
                                       limits::repetition_penalty_min, limits::repetition_penalty_max),
                           check_range("presence_penalty", sampling.presence_penalty, -limits::added_penalty_max,
                                       limits::added_penalty_max),
                           check_range("frequency_penalty", sampling.frequency_penalty, -limits::added_penalty_max,
                                       limits::added_penalty_max),
                           check_bias(sampling, model)}) {
    if (!fine) return fine;
  }
  return {};
}

result<void> check(const generation_request& request, const generation_limits& model) {
  if (auto fine = check(request.sampling, model); !fine) return fine;
  if (request.top_logprobs > limits::top_logprobs_max) {
    return refuse(fmt::format("top_logprobs: {}, at most {}", request.top_logprobs, limits::top_logprobs_max));
  }
  for (const auto& fine : {check_lengths(request, model), check_tokens("prompt", request.prompt, model),
                           check_tokens("resumed", request.resumed, model), check_stops(request, model)}) {
    if (!fine) return fine;
  }
  return {};
}

std::uint32_t room_for_answer(std::size_t prompt_tokens, const generation_limits& model) {
  return prompt_tokens >= model.context_tokens ? 0 : model.context_tokens - static_cast<std::uint32_t>(prompt_tokens);
}

std::chrono::milliseconds generation_timeout(std::uint64_t asked_ms) {
  using std::chrono::milliseconds;
  const milliseconds longest = limits::generation_timeout_max;
  if (asked_ms == 0) return limits::generation_timeout_default;
  return milliseconds(std::min(asked_ms, static_cast<std::uint64_t>(longest.count())));
}

}  // namespace troupe::router
