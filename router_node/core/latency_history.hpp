// How long one host's calls take, by size, and from that how long to wait before somebody else is asked.
// Single-threaded plain value.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>

namespace troupe::router {

class latency_history {
 public:
  // A call with `rows` rows came back after `elapsed`.
  void record(std::uint32_t rows, std::chrono::nanoseconds elapsed);

  // Of the last calls of about this size the slowest (with 64 remembered: about the 98th percentile). Without any of
  // this size it is derived from the nearest size that is known, in proportion to the rows. 0: nothing is known.
  [[nodiscard]] std::chrono::nanoseconds slowest(std::uint32_t rows) const;

  // max(floor, 4 x slowest), or the default of limits.hpp while nothing is known.
  [[nodiscard]] std::chrono::nanoseconds attempt_timeout(std::uint32_t rows) const;

 private:
  static constexpr std::size_t size_classes = 14;  // 1, 2, 4, ... 8192 rows
  static constexpr std::size_t remembered = 64;
  struct ring {
    std::array<std::chrono::nanoseconds, remembered> elapsed{};
    std::uint32_t count{};
  };
  static std::size_t class_of(std::uint32_t rows);
  [[nodiscard]] std::chrono::nanoseconds slowest_of(std::size_t size_class) const;

  std::array<ring, size_classes> rings_{};
};

}  // namespace troupe::router
