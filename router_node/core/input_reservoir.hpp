// What cold experts got: of each a bounded, uniform sample of the rows that it was asked for, so that it can be trained
// on them. Only looks at what was answered; no answer depends on it.
//
// Sampling: algorithm R (Vitter, "Random sampling with a reservoir", 1985). The first rows are kept; each later one,
// the n-th, is kept with probability capacity / n, in the place of one that was kept, all with the same chance. So at
// any time every row seen has been kept with the same probability.
//
// Bounds: `rows_max` rows per expert, and `bytes_max` altogether, which the experts that are watched share evenly: when
// more are watched, those there are give up rows, chosen at random (a uniform sample of a uniform sample is one).
//
// Thread rule: one thread. Randomness is passed in, and nobody else's: what is kept changes nothing for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <random>
#include <span>
#include <vector>

#include "common/ids.hpp"
#include "common/limits.hpp"
#include "common/tensor.hpp"
#include "model/gating.hpp"

namespace troupe::router {

// A request's rows as the experts got them, and who got them. Spans and pointers are read during the call only.
struct answered_rows {
  layer_id layer;
  std::span<const std::byte> matrix;  // [T, H] of `type`
  std::uint32_t rows{};
  dtype type{dtype::f32};
  const model::routing& routing;
  std::span<const std::uint8_t> flags;  // [T]; rows that are missing are not looked at
  epoch_number epoch;
};

struct kept_inputs {
  dtype type{dtype::f32};
  std::uint64_t row_bytes{};
  std::vector<std::byte> rows;      // [n, H] of `type`
  std::vector<float> gate_weights;  // [n]
  std::uint64_t rows_seen{};        // that they were drawn from
  epoch_number epoch;               // newest that one was answered under
};

class input_reservoir {
 public:
  // `rows_max` 0: nothing is kept.
  input_reservoir(std::uint32_t rows_max, std::uint64_t bytes_max, std::mt19937_64 random)
      : rows_max_(rows_max), bytes_max_(bytes_max), random_(random) {}

  // From now on the rows of these. What was kept of others is forgotten.
  void watch(const std::vector<expert_id>& cold);
  void offer(const answered_rows& answered);

  [[nodiscard]] bool is_on() const { return rows_max_ > 0; }
  // Is one of the layer's experts watched?
  [[nodiscard]] bool watches(layer_id layer) const { return layers_.contains(layer); }
  // nullptr: not watched.
  [[nodiscard]] const kept_inputs* find(const expert_id& expert) const;
  [[nodiscard]] std::uint64_t rows_kept() const;
  [[nodiscard]] std::uint64_t bytes_kept() const;

 private:
  struct reservoir {
    kept_inputs kept;
    std::uint64_t capacity{};  // rows; only ever shrinks
  };

  [[nodiscard]] std::uint64_t capacity_for(std::uint64_t row_bytes) const;
  void keep(reservoir& target, std::span<const std::byte> row, float weight);
  void thin_out(reservoir& target, std::uint64_t capacity);

  const std::uint32_t rows_max_;
  const std::uint64_t bytes_max_;
  std::mt19937_64 random_;
  std::map<layer_id, std::map<std::uint32_t, reservoir>> layers_;  // by expert
  std::uint64_t watched_{};                                        // experts
};

}  // namespace troupe::router
