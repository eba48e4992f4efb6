// Models and their KV memory in a few lines: the K/V of a position is a hash of the model and all tokens up to it; the
// next token is one of the tokens alone. Whoever reads a wrong block, an old one, or one that another sequence wrote
// into, is found out.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "router_node/core/generation/mixing.hpp"
#include "router_node/core/generation/step_plan.hpp"

namespace troupe::router::testing {

class fake_trunk {
 public:
  explicit fake_trunk(std::uint32_t blocks) : memory_(blocks) {}

  static std::uint64_t extend(std::uint64_t hash, token_number token) { return mixed(hash * 3 + token + 1); }

  static token_number next_token(std::span<const token_number> tokens) {
    std::uint64_t hash = 0;
    for (const auto token : tokens) hash = extend(hash, token);
    return static_cast<token_number>(hash % 50);
  }

  // The first `answers` tokens behind the prompt when nothing else is going on.
  static std::vector<token_number> answer_alone(std::vector<token_number> prompt, std::uint32_t answers) {
    const auto length = prompt.size();
    for (std::uint32_t i = 0; i < answers; ++i) prompt.push_back(next_token(prompt));
    return {prompt.begin() + static_cast<std::ptrdiff_t>(length), prompt.end()};
  }

  // Writes the rows of a part; `tokens` is the whole sequence. An inexact part writes rubbish. What is wrong with the
  // positions before it, up to `trusted`; empty: nothing.
  std::string compute(const planned_sequence& part, std::span<const token_number> tokens, bool is_exact,
                      std::uint32_t trusted = ~0U) {
    std::string wrong;
    std::uint64_t hash = part.model.value;
    const auto end = part.first_position + part.tokens.size();
    if (end > tokens.size() || end > part.blocks.size() * limits::kv_block_tokens) return "no room for all rows";
    for (std::uint32_t p = 0; p < end; ++p) {
      hash = extend(hash, tokens[p]);
      auto& place = memory_[part.blocks[p / limits::kv_block_tokens]][p % limits::kv_block_tokens];
      if (p < part.first_position) {
        if (place != hash && p < trusted && wrong.empty()) wrong = fmt::format("position {} holds something else", p);
      } else {
        if (part.tokens[p - part.first_position] != tokens[p]) wrong = fmt::format("token {} is another one", p);
        place = is_exact ? hash : ~hash;
      }
    }
    return wrong;
  }

 private:
  std::vector<std::array<std::uint64_t, limits::kv_block_tokens>> memory_;
};

}  // namespace troupe::router::testing
