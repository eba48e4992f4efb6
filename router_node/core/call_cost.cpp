#include "router_node/core/call_cost.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace troupe::router {
namespace {

constexpr double half_life = 512;       // records
constexpr std::uint64_t learning = 64;  // records that count whole, and after each of which the fit is solved
constexpr std::uint64_t solve_every = 16;
constexpr double outlier = 4;
constexpr double ridge = 1e-3;  // of the diagonal: calls of one size only must not make the equations singular
constexpr double least_seconds = 1e-6;

std::array<double, 3> features(call_size size) {
  return {1.0, static_cast<double>(size.assignments), static_cast<double>(size.experts)};
}

}  // namespace

double call_cost::expected(call_size size) const {
  if (count_ == 0) return 0;
  const auto x = features(size);
  double sum = 0;
  for (std::size_t i = 0; i < terms; ++i) sum += coefficients_[i] * x[i];
  return std::max(sum, least_seconds);
}

void call_cost::record(call_size size, double seconds) {
  seconds = std::max(seconds, least_seconds);
  const auto wanted = expected(size);
  if (count_ >= learning) seconds = std::min(seconds, outlier * wanted);
  const auto scale = count_ >= learning ? wanted : seconds;
  auto x = features(size);
  for (auto& value : x) value /= scale;
  const auto kept = std::exp2(-1 / half_life);
  for (std::size_t i = 0; i < terms; ++i) {
    for (std::size_t j = 0; j < terms; ++j) products_[i][j] = kept * products_[i][j] + x[i] * x[j];
    targets_[i] = kept * targets_[i] + x[i] * seconds / scale;
  }
  if (count_++ < learning || count_ % solve_every == 0) solve();
}

// Gaussian elimination over the terms in use; the most negative term leaves until none is.
void call_cost::solve() {
  std::array<bool, terms> in_use{true, true, true};
  for (std::size_t round = 0; round < terms; ++round) {
    auto a = products_;
    auto b = targets_;
    for (std::size_t i = 0; i < terms; ++i) {
      a[i][i] *= 1 + ridge;
      for (std::size_t j = 0; j < terms; ++j) {
        if (i != j && !(in_use[i] && in_use[j])) a[i][j] = 0;
      }
      if (!in_use[i]) b[i] = 0;
    }
    // Positive definite by the ridge: no pivoting needed.
    for (std::size_t i = 0; i < terms; ++i) {
      for (std::size_t k = i + 1; k < terms; ++k) {
        const auto factor = a[k][i] / a[i][i];
        for (std::size_t j = i; j < terms; ++j) a[k][j] -= factor * a[i][j];
        b[k] -= factor * b[i];
      }
    }
    for (std::size_t i = terms; i-- > 0;) {
      for (std::size_t j = i + 1; j < terms; ++j) b[i] -= a[i][j] * b[j];
      b[i] /= a[i][i];
    }
    const auto least = std::ranges::min_element(b);
    if (*least >= 0) {
      coefficients_ = b;
      return;
    }
    in_use[static_cast<std::size_t>(least - b.begin())] = false;
  }
}

}  // namespace troupe::router
