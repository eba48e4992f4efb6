#include "router_node/trunk/rope.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace troupe::router {
namespace {

using model::rope_description;
using model::rope_kind;

double two_pi() { return 2 * std::numbers::pi; }

// How much of each pair's frequency is kept, from 1 (fast ones) to 0 (slow ones, divided by the factor).
double yarn_kept(const rope_description& rope, std::uint32_t pair) {
  auto pair_with = [&](double turns) {
    return rope.dims * std::log(rope.original_tokens / (turns * two_pi())) / (2 * std::log(rope.theta));
  };
  double low = pair_with(rope.beta_fast);
  double high = pair_with(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.dims - 1.0);
  if (low == high) high += 0.001;
  return 1 - std::clamp((pair - low) / (high - low), 0.0, 1.0);
}

double llama3_frequency(const rope_description& rope, double frequency) {
  double wavelength = two_pi() / frequency;
  if (wavelength < rope.original_tokens / rope.high_freq_factor) return frequency;
  if (wavelength > rope.original_tokens / rope.low_freq_factor) return frequency / rope.factor;
  double smooth =
      (rope.original_tokens / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

double theta_for(const rope_description& rope, std::uint32_t tokens) {
  if (rope.kind != rope_kind::dynamic) return rope.theta;
  double length = std::max(tokens, rope.original_tokens);
  double stretch = rope.factor * length / rope.original_tokens - (rope.factor - 1);
  return rope.theta * std::pow(stretch, rope.dims / (rope.dims - 2.0));
}

}  // namespace

std::vector<float> rope_frequencies(const rope_description& rope, std::uint32_t tokens) {
  std::vector<float> frequencies(rope.dims / 2);
  double theta = theta_for(rope, tokens);
  for (std::uint32_t pair = 0; pair < frequencies.size(); ++pair) {
    // Rounded where transformers rounds: exponent and power are f32 there.
    auto exponent = static_cast<float>(2 * pair) / static_cast<float>(rope.dims);
    double frequency = 1.0F / static_cast<float>(std::pow(theta, double{exponent}));
    if (rope.kind == rope_kind::linear) frequency /= rope.factor;
    if (rope.kind == rope_kind::llama3) frequency = llama3_frequency(rope, frequency);
    if (rope.kind == rope_kind::yarn) {
      double kept = yarn_kept(rope, pair);
      frequency = frequency / rope.factor * (1 - kept) + frequency * kept;
    }
    frequencies[pair] = static_cast<float>(frequency);
  }
  return frequencies;
}

rope_table::rope_table(const rope_description& rope) : rope_(rope), frequencies_(rope_frequencies(rope, 0)) {}

void rope_table::fill(std::span<const float> frequencies, std::uint32_t position, float* target) const {
  auto factor = static_cast<float>(rope_.attention_factor);
  for (std::size_t pair = 0; pair < frequencies.size(); ++pair) {
    double angle = frequencies[pair] * static_cast<float>(position);
    target[pair] = static_cast<float>(std::cos(angle)) * factor;
    target[half() + pair] = static_cast<float>(std::sin(angle)) * factor;
  }
}

void rope_table::reserve(std::uint32_t end) {
  std::size_t row = std::size_t{2} * half();
  auto known = static_cast<std::uint32_t>(table_.size() / row);
  if (end <= known) return;
  end = std::max(end, known + known / 2);  // few reallocations
  table_.resize(end * row);
  for (std::uint32_t position = known; position < end; ++position) {
    fill(frequencies_, position, table_.data() + position * row);
  }
}

const float* rope_table::angles(std::uint32_t position, std::uint32_t tokens, float* own) const {
  if (rope_.kind != rope_kind::dynamic || tokens <= rope_.original_tokens) {
    return table_.data() + std::size_t{position} * 2 * half();
  }
  fill(rope_frequencies(rope_, tokens), position, own);
  return own;
}

}  // namespace troupe::router
