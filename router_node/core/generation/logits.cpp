#include "router_node/core/generation/logits.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include <fmt/format.h>

namespace troupe::router {
namespace {

// Enough that the compiler keeps the inner loops as loops, which it vectorises, instead of unrolling them.
constexpr std::size_t lanes = 256;

bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000U) != 0x7f800000U; }

// e^x for x <= 0, without branches: 2^n * e^r with |r| <= ln(2) / 2, e^r by its Taylor polynomial of degree 7, whose
// remainder is below 6e-9. Below -87 it gives e^-87: nothing, next to the largest term, which is 1.
float exponential(float x) {
  // As whole numbers, since GCC makes branches of comparisons of floats here and does not vectorise them.
  const auto magnitude = std::bit_cast<std::int32_t>(x) & 0x7fffffff;
  x = -std::bit_cast<float>(std::min(magnitude, std::bit_cast<std::int32_t>(87.0F)));
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
  constexpr float rounder = 12582912.0F;
  const float shifted = x * 1.44269504F + rounder;
  const float n = shifted - rounder;
  const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // ln(2) in two parts
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const auto exponent = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(rounder) + 127U;
  return p * std::bit_cast<float>(exponent << 23);
}

}  // namespace

result<void> check_finite(std::span<const float> logits) {
  std::uint32_t bad = 0;
  for (const float x : logits) bad |= static_cast<std::uint32_t>(!is_finite(x));
  if (bad == 0) return {};
  const auto at = std::ranges::find_if_not(logits, is_finite);
  return fail(errc::internal,
              fmt::format("the model gave the logit {} for token {}; its weights or an expert are damaged", *at,
                          at - logits.begin()));
}

token_number largest_logit(std::span<const float> logits) {
  std::array<float, lanes> best;
  best.fill(logits[0]);
  std::size_t i = 0;
  for (; i + lanes <= logits.size(); i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      best[lane] = logits[i + lane] > best[lane] ? logits[i + lane] : best[lane];
    }
  }
  for (; i < logits.size(); ++i) best[0] = std::max(best[0], logits[i]);
  const float largest = std::ranges::max(best);
  return static_cast<token_number>(std::ranges::find(logits, largest) - logits.begin());
}

double sum_of_exponentials(std::span<const float> logits, float offset, float scale) {
  // Lanes of f32 over short pieces, then f64: exact enough and vectorised.
  constexpr std::size_t piece = 64 * lanes;
  double sum = 0;
  for (std::size_t begin = 0; begin < logits.size(); begin += piece) {
    const auto part = logits.subspan(begin, std::min(piece, logits.size() - begin));
    std::array<float, lanes> sums{};
    std::size_t i = 0;
    for (; i + lanes <= part.size(); i += lanes) {
      for (std::size_t lane = 0; lane < lanes; ++lane) sums[lane] += exponential((part[i + lane] - offset) * scale);
    }
    for (; i < part.size(); ++i) sum += static_cast<double>(exponential((part[i] - offset) * scale));
    for (const float s : sums) sum += static_cast<double>(s);
  }
  return sum;
}

std::vector<token_number> largest_logits(std::span<const float> logits, std::uint32_t k) {
  k = std::min(k, static_cast<std::uint32_t>(logits.size()));
  if (k == 0) return {};
  const auto is_better = [logits](token_number a, token_number b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  // A heap with the worst of the best in front. Few tokens get past the comparison with it.
  std::vector<token_number> best(k);
  for (token_number id = 0; id < k; ++id) best[id] = id;
  std::ranges::make_heap(best, is_better);
  float least = logits[best.front()];
  for (token_number id = k; id < logits.size(); ++id) {
    if (logits[id] <= least) continue;
    std::ranges::pop_heap(best, is_better);
    best.back() = id;
    std::ranges::push_heap(best, is_better);
    least = logits[best.front()];
  }
  std::ranges::sort_heap(best, is_better);
  return best;
}

double log_normaliser(std::span<const float> logits) {
  const float largest = logits[largest_logit(logits)];
  return static_cast<double>(largest) + std::log(sum_of_exponentials(logits, largest, 1.0F));
}

}  // namespace troupe::router
