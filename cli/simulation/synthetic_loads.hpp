// Loads that no file has to hold: drawn by seed, one step at a time, so that a day of a thousand nodes takes the memory
// of one step. Pure; one thread.
//
//   zipf          popularity 1 / rank^exponent, shuffled per layer, times log-normal noise that is new in each step
//   drift         and each expert's popularity wanders: log-normal around its rank, forgotten within 6 hours
//   domain-shift  three kinds of text, each with its own order of experts; every 4 hours or so, within 10 minutes,
//                 another kind takes over
//   flash-crowd   every 3 hours or so one expert in 32 of each layer gets 8 times its load, which fades within half an
//   hour node-loss     zipf, while nodes leave and return (node_calendar.hpp)
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "cli/simulation/load_source.hpp"

namespace troupe::cli {

enum class load_shape : std::uint8_t { zipf, drift, domain_shift, flash_crowd, node_loss };

struct synthetic_settings {
  load_shape shape{load_shape::zipf};
  std::uint64_t seed{1};
  std::uint32_t layers{61};
  std::uint32_t experts{256};
  double hours{24};
  std::uint32_t step_minutes{5};  // a coordinator moves experts every few minutes, and replicas need that long to come
  double zipf{0.8};               // exponent; 0: all experts alike
  double noise{0.1};              // sigma of its logarithm
};

[[nodiscard]] std::uint32_t count_steps(const synthetic_settings& settings);

class synthetic_loads {
 public:
  // Rows per layer and minute, each counted once per expert that it chose.
  static constexpr double rows_per_minute = 1e6;

  explicit synthetic_loads(const synthetic_settings& settings);

  // The loads of the next step: rows, rows_per_minute x step_minutes of them in each layer.
  const step_loads& next();

 private:
  double uniform();  // above 0, up to 1
  double normal();
  double waiting_steps(double hours_mean);
  [[nodiscard]] double keeping(double hours) const;  // what a step leaves of what is forgotten within so long
  void shuffle(std::vector<double>& layer);
  void wander(bool from_nothing);
  void gather_crowd();
  void change_domain();
  [[nodiscard]] double popularity(std::size_t layer, std::size_t expert) const;

  synthetic_settings settings_;
  std::mt19937_64 random_;
  std::vector<step_loads> domains_;  // popularity
  std::vector<double> parts_;        // of each domain in what comes
  std::size_t domain_{};             // that takes over, or has
  step_loads shifts_;                // of an expert's log popularity
  double next_event_{};              // in steps
  std::uint32_t step_{};
  step_loads now_;
};

[[nodiscard]] load_source source_of(const synthetic_settings& settings);

}  // namespace troupe::cli
