// How far a long operation is: a bar with rate and remaining time on a terminal, a plain line now and then elsewhere.
// Writes to standard error. One thread; time comes in.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>

namespace troupe::cli {

class progress {
 public:
  using time_point = std::chrono::steady_clock::time_point;

  // `what`: "loading experts"; `terminal`: draw a bar, else lines at least `line_interval` apart.
  progress(std::ostream& out, std::string what, bool terminal, time_point now);
  // Ends the bar's line, if one is open.
  ~progress();
  progress(const progress&) = delete;
  progress& operator=(const progress&) = delete;

  void update(std::uint64_t done, std::uint64_t total, time_point now);

  static constexpr std::chrono::seconds line_interval{10};

 private:
  void draw_bar(std::uint64_t done, std::uint64_t total, double seconds);

  std::ostream& out_;
  std::string what_;
  bool terminal_;
  time_point begin_;
  time_point last_line_;
  bool drawn_{};
  bool said_{};
  std::uint64_t last_done_{};
};

}  // namespace troupe::cli
