// The OpenAI-compatible doors of the router: /v1/completions, /v1/chat/completions, /tokenize, /detokenize.
//
// Texts become tokens on a thread of the doors' own: a long prompt must not hold up the streams of others, which the
// HTTP server's thread sends. What users expect of each field is in docs/http-api.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/http/message.hpp"
#include "common/limits.hpp"
#include "router_node/shell/openai_answer.hpp"

namespace troupe::router {

struct openai_settings {
  served_model model;
  generation_gateway* gateway{};
  std::uint32_t answers_per_key_max{limits::answers_per_key_max};
  std::chrono::milliseconds ping_interval{limits::http_ping_interval};
  // Any thread; must not block.
  std::function<void(text_outcome)> on_outcome{};
};

// Destroyed after the HTTP server has stopped, and before the gateway.
class openai_doors {
 public:
  explicit openai_doors(openai_settings settings);
  ~openai_doors();
  openai_doors(const openai_doors&) = delete;
  openai_doors& operator=(const openai_doors&) = delete;

  // Put http::guard around them when there are API keys.
  [[nodiscard]] std::vector<http::route> routes();

 private:
  class impl;
  std::unique_ptr<impl> impl_;
};

}  // namespace troupe::router
