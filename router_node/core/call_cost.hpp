// How long a call to an expert host should take, by what it asks. One fit for all hosts, so that a host can be compared
// with the others although it holds other experts. Single-threaded plain value.
//
//   expected seconds = base + per_assignment * (pairs of row and expert) + per_expert * (distinct experts)
//
// Least squares over what was recorded: every equation divided by its expected time (relative errors count), the weight
// of a record halves every `half_life` records, and coefficients that come out negative are left out. A record counts
// with at most 4 x its expected time, so that stragglers do not move the fit.
#pragma once

#include <array>
#include <cstdint>

namespace troupe::router {

struct call_size {
  std::uint32_t assignments{};
  std::uint32_t experts{};
};

class call_cost {
 public:
  void record(call_size size, double seconds);
  // Seconds: 0 while nothing was recorded, else at least a microsecond.
  [[nodiscard]] double expected(call_size size) const;

 private:
  static constexpr std::size_t terms = 3;
  using vector = std::array<double, terms>;

  void solve();

  std::array<vector, terms> products_{};  // sum of x x^T
  vector targets_{};                      // sum of x y
  vector coefficients_{};
  std::uint64_t count_{};
};

}  // namespace troupe::router
