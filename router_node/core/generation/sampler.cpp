#include "router_node/core/generation/sampler.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

#include "router_node/core/generation/logits.hpp"
#include "router_node/core/generation/mixing.hpp"

namespace troupe::router {
namespace {

// Bits of is_touched_.
constexpr std::uint8_t has_old_value = 1;
constexpr std::uint8_t is_penalised = 2;

// Sharper than this is greedy (vLLM).
constexpr float temperature_min = 1e-5F;

float clamped(float x) {
  return std::clamp(x, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
}

// Gumbel-max over candidates that come one by one. The noise of a token depends on nothing but key and id.
class gumbel_race {
 public:
  // The number of a token is the id-th of SplitMix64 started at `key`.
  gumbel_race(std::uint64_t seed, std::uint64_t position, double scale)
      : key_(mixed(mixed(seed + mixing_gamma) + position * mixing_gamma)), scale_(scale) {
    for (std::size_t i = 0; i < reach_.size(); ++i) reach_[i] = std::exp(-static_cast<double>(i));
  }

  void run(token_number id, float logit) {
    const auto bits = mixed(key_ + (std::uint64_t{id} + 1) * mixing_gamma) >> 11;
    const double value = static_cast<double>(logit) * scale_;
    // -log u >= 1 - u, so noise above d needs 1 - u < e^-d: most tokens of a large vocabulary lose right here.
    const double behind = best_ - value;
    if (behind > 0) {
      const auto whole = static_cast<std::size_t>(std::min(behind, static_cast<double>(reach_.size() - 1)));
      if (static_cast<double>(bits_max - bits) * 0x1p-53 > reach_[whole]) return;
    }
    const double u = (static_cast<double>(bits) + 0.5) * 0x1p-53;
    const double perturbed = value - std::log(-std::log(u));
    if (perturbed > best_ || (perturbed == best_ && id < winner_)) {
      best_ = perturbed;
      winner_ = id;
    }
  }
  [[nodiscard]] token_number winner() const { return winner_; }

 private:
  static constexpr std::uint64_t bits_max = (std::uint64_t{1} << 53) - 1;
  std::uint64_t key_;
  double scale_;
  double best_{-std::numeric_limits<double>::infinity()};
  token_number winner_{};
  std::array<double, 40> reach_;  // [d]: e^-d; noise never exceeds 37.5
};

std::vector<token_logprob> best_logprobs(std::span<const float> logits, double normaliser, std::uint32_t top) {
  std::vector<token_logprob> best;
  for (const auto id : largest_logits(logits, top)) {
    best.push_back({id, static_cast<float>(logits[id] - normaliser)});
  }
  return best;
}

}  // namespace

result<sampled_token> sampler::sample(std::span<float> logits, const sampling_settings& settings,
                                      std::span<const token_number> prompt, std::span<const token_number> answer,
                                      std::optional<std::uint32_t> top_logprobs) {
  if (auto checked = check_finite(logits); !checked) return fail(checked.error());
  adjust(logits, settings, prompt, answer);
  sampled_token sampled{choose(logits, settings, answer.size()), 0, {}};
  restore(logits);
  if (top_logprobs) {
    const auto normaliser = log_normaliser(logits);
    sampled.logprob = static_cast<float>(logits[sampled.id] - normaliser);
    sampled.top = best_logprobs(logits, normaliser, *top_logprobs);
  }
  return sampled;
}

result<std::vector<token_logprob>> log_probabilities(std::span<const float> logits, token_number token,
                                                     std::uint32_t top) {
  if (auto checked = check_finite(logits); !checked) return fail(checked.error());
  const auto normaliser = log_normaliser(logits);
  auto row = best_logprobs(logits, normaliser, top);
  row.insert(row.begin(), {token, static_cast<float>(logits[token] - normaliser)});
  return row;
}

// -- penalties ----------------------------------------------------------------------------------------------------

void sampler::adjust(std::span<float> logits, const sampling_settings& settings, std::span<const token_number> prompt,
                     std::span<const token_number> answer) {
  is_touched_.resize(logits.size());
  for (const auto& [id, bias] : settings.logit_bias) {
    if (id >= logits.size()) continue;
    touch(logits, id);
    logits[id] = clamped(logits[id] + bias);
  }
  if (settings.repetition_penalty != 1.0F) penalise_repetition(logits, settings.repetition_penalty, prompt, answer);
  if (settings.presence_penalty != 0 || settings.frequency_penalty != 0) penalise_answer(logits, settings, answer);
}

void sampler::touch(std::span<const float> logits, token_number id) {
  if ((is_touched_[id] & has_old_value) != 0) return;
  is_touched_[id] |= has_old_value;
  touched_.emplace_back(id, logits[id]);
}

void sampler::restore(std::span<float> logits) {
  for (const auto& [id, logit] : touched_) {
    logits[id] = logit;
    is_touched_[id] = 0;
  }
  touched_.clear();
}

void sampler::penalise_repetition(std::span<float> logits, float penalty, std::span<const token_number> prompt,
                                  std::span<const token_number> answer) {
  for (const auto tokens : {prompt, answer}) {
    for (const auto id : tokens) {
      if (id >= logits.size() || (is_touched_[id] & is_penalised) != 0) continue;
      touch(logits, id);
      is_touched_[id] |= is_penalised;
      logits[id] = clamped(logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty);
    }
  }
}

void sampler::penalise_answer(std::span<float> logits, const sampling_settings& settings,
                              std::span<const token_number> answer) {
  sorted_.assign(answer.begin(), answer.end());
  std::ranges::sort(sorted_);
  for (auto at = sorted_.begin(); at != sorted_.end() && *at < logits.size();) {
    const auto next = std::upper_bound(at, sorted_.end(), *at);
    const auto id = *at;
    touch(logits, id);
    logits[id] -= settings.frequency_penalty * static_cast<float>(next - at);
    logits[id] = clamped(logits[id] - settings.presence_penalty);
    at = next;
  }
}

// -- choice -------------------------------------------------------------------------------------------------------

token_number sampler::choose(std::span<const float> logits, const sampling_settings& settings, std::uint64_t position) {
  const auto best = largest_logit(logits);
  if (settings.temperature < temperature_min) return best;
  const double scale = 1.0 / static_cast<double>(settings.temperature);
  gumbel_race race(settings.seed, position, scale);
  race.run(best, logits[best]);  // a high bar from the start
  const bool cuts_k = settings.top_k > 0 && settings.top_k < logits.size();
  const bool cuts_p = settings.top_p < 1;
  // Of the largest probability: logit * scale >= largest * scale + log(min_p).
  const double least = settings.min_p > 0 ? (static_cast<double>(logits[best]) * scale + std::log(settings.min_p))
                                          : -std::numeric_limits<double>::infinity();
  const auto run = [&](token_number id, float logit) {
    if (static_cast<double>(logit) * scale >= least) race.run(id, logit);
  };
  if (!cuts_k && !cuts_p) {
    for (token_number id = 0; id < logits.size(); ++id) run(id, logits[id]);
    return race.winner();
  }
  kept_.clear();
  if (cuts_k) keep_top_k(logits, settings.top_k);
  if (cuts_p) keep_top_p(logits, settings, logits[best]);
  for (const auto& c : kept_) run(c.id, c.logit);
  return race.winner();
}

void sampler::keep_top_k(std::span<const float> logits, std::uint32_t k) {
  const float least = logits[largest_logits(logits, k).back()];
  for (token_number id = 0; id < logits.size(); ++id) {
    if (logits[id] >= least) kept_.push_back({logits[id], id, 0});
  }
}

// Of what top_k has kept, or of everything when that is empty.
void sampler::keep_top_p(std::span<const float> logits, const sampling_settings& settings, float largest) {
  const double scale = 1.0 / static_cast<double>(settings.temperature);
  if (kept_.empty()) {
    const auto total = sum_of_exponentials(logits, largest, static_cast<float>(scale));
    collect_mass(logits, scale, largest, settings.top_p * total);
    cut_behind_mass(settings.top_p * total);
    return;
  }
  double total = 0;
  for (auto& c : kept_) {
    c.weight = std::exp((static_cast<double>(c.logit) - largest) * scale);
    total += c.weight;
  }
  cut_behind_mass(settings.top_p * total);
}

// Keeps the largest tokens until they weigh `wanted` or nothing is left. A peaked distribution over a large vocabulary
// gives a few, since first only tokens with at least e^-8 of the largest probability are looked at.
void sampler::collect_mass(std::span<const float> logits, double scale, float largest, double wanted) {
  for (double reach = 8;; reach *= 4) {
    kept_.clear();
    double mass = 0;
    for (token_number id = 0; id < logits.size(); ++id) {
      const double exponent = (static_cast<double>(logits[id]) - largest) * scale;
      if (exponent < -reach) continue;
      kept_.push_back({logits[id], id, std::exp(exponent)});
      mass += kept_.back().weight;
    }
    if (mass >= wanted || reach > 1000) return;
  }
}

// Of the kept ones, best first, leaves those that are needed to weigh `wanted`; at least one. Halves what is undecided
// instead of sorting.
void sampler::cut_behind_mass(double wanted) {
  const auto is_before = [](const candidate& a, const candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  double before = 0;
  auto begin = kept_.begin(), end = kept_.end();
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, is_before);
    double half = 0;
    for (auto c = begin; c != middle; ++c) half += c->weight;
    if (before + half >= wanted) {
      end = middle;
    } else {
      before += half;
      begin = middle;
    }
  }
  kept_.erase(begin + 1, kept_.end());
}

}  // namespace troupe::router
