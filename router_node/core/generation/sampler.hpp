// Chooses the next token from logits. One sampler per thread: it keeps scratch space.
//
// In this order, each as the named reference defines it:
//   logit_bias            added to the logits (vLLM, transformers' SequenceBias, llama.cpp)
//   repetition_penalty    tokens of prompt and answer: logit / penalty if positive, else logit * penalty
//                         (Keskar et al. 2019, CTRL, section 4.1; transformers)
//   frequency, presence   answer's tokens: logit - frequency * count - presence (OpenAI, vLLM)
//   temperature           below 1e-5: the largest logit, the lower id of equals; nothing of what follows
//   top_k                 keeps what is not below the k-th largest (transformers: equals of the k-th stay)
//   top_p                 keeps the largest until their probabilities reach p (Holtzman et al. 2020; at least one
//   stays) min_p                 keeps what has at least min_p times the largest probability (Nguyen et al. 2024)
// and of what is kept the token with the largest logit / temperature + g (Gumbel-max), where g = -log(-log u) and
// u = hash(seed, position, token). So the choice is a draw from the softmax, the same on every machine and in every
// batch, and a small difference of the logits changes it only as often as the two distributions differ.
//
// Logprobs are of the distribution that the model gave: log-softmax of the unchanged logits, temperature 1.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router {

struct sampled_token {
  token_number id{};
  float logprob{};                 // when asked for
  std::vector<token_logprob> top;  // best first, when asked for
};

class sampler {
 public:
  // logits [V]: the model's for the token behind prompt and answer; changed meanwhile, the same afterwards.
  // `top_logprobs`: nullopt: no logprobs are computed (greedy is much cheaper then); 0: the token's only.
  // The position is answer.size(). Tokens >= V in `settings`, prompt and answer are passed over.
  // internal when a logit is NaN or infinite.
  // @pre settings are within the ranges of generation.hpp; V > 0
  [[nodiscard]] result<sampled_token> sample(std::span<float> logits, const sampling_settings& settings,
                                             std::span<const token_number> prompt, std::span<const token_number> answer,
                                             std::optional<std::uint32_t> top_logprobs);

 private:
  struct candidate {
    float logit{};
    token_number id{};
    double weight{};  // e^(logit / temperature), relative to the largest
  };

  void adjust(std::span<float> logits, const sampling_settings& settings, std::span<const token_number> prompt,
              std::span<const token_number> answer);
  void penalise_repetition(std::span<float> logits, float penalty, std::span<const token_number> prompt,
                           std::span<const token_number> answer);
  void penalise_answer(std::span<float> logits, const sampling_settings& settings,
                       std::span<const token_number> answer);
  void touch(std::span<const float> logits, token_number id);
  void restore(std::span<float> logits);
  [[nodiscard]] token_number choose(std::span<const float> logits, const sampling_settings& settings,
                                    std::uint64_t position);
  void keep_top_k(std::span<const float> logits, std::uint32_t k);
  void keep_top_p(std::span<const float> logits, const sampling_settings& settings, float largest);
  void collect_mass(std::span<const float> logits, double scale, float largest, double wanted);
  void cut_behind_mass(double wanted);

  std::vector<std::pair<token_number, float>> touched_;  // changed tokens with the model's logit
  std::vector<std::uint8_t> is_touched_;                 // [V], all 0 between calls
  std::vector<token_number> sorted_;
  std::vector<candidate> kept_;
};

// Of one row: the token itself first, then the `top` best, best first (prompt logprobs).
// internal when a logit is NaN or infinite. @pre token < logits.size()
[[nodiscard]] result<std::vector<token_logprob>> log_probabilities(std::span<const float> logits, token_number token,
                                                                   std::uint32_t top);

}  // namespace troupe::router
