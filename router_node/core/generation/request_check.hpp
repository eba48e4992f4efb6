// What a request for text may say, checked before any work is done. Pure.
#pragma once

#include <chrono>
#include <cstdint>

#include "common/error.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router {

// Ranges and counts of the sampling settings. invalid_request "NAME: VALUE; use ..." with the HTTP API's name.
[[nodiscard]] result<void> check(const sampling_settings& sampling, const generation_limits& model);

// The whole request: token ids below the vocabulary, prompt and answer within the context, settings, stops.
// invalid_request with the field's name; numbers of tokens where the context is too short.
[[nodiscard]] result<void> check(const generation_request& request, const generation_limits& model);

// What max_tokens is when the client names none: all that the context has room for. 0: the prompt fills it.
[[nodiscard]] std::uint32_t room_for_answer(std::size_t prompt_tokens, const generation_limits& model);

// 0: the default. Longer than the longest: the longest.
[[nodiscard]] std::chrono::milliseconds generation_timeout(std::uint64_t asked_ms);

}  // namespace troupe::router
