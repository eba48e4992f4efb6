// Rotary embeddings: the angles of positions, as transformers 4.57 computes them (modeling_rope_utils). Frequencies are
// made in f64 and kept in f32, angles are f32 products, as there.
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/trunk_description.hpp"

namespace troupe::router {

// Of each pair of dims: [dims / 2]. `tokens` is the length of the sequence, which only the dynamic kind looks at.
[[nodiscard]] std::vector<float> rope_frequencies(const model::rope_description& rope, std::uint32_t tokens);

class rope_table {
 public:
  explicit rope_table(const model::rope_description& rope);

  [[nodiscard]] std::uint32_t half() const { return rope_.dims / 2; }
  // Cosines [half], then sines [half], of a position in a sequence of `tokens`. In `own` [2 * half] where they depend
  // on that length, else in a table that grows with the positions asked for. Valid until the next call of `reserve`.
  [[nodiscard]] const float* angles(std::uint32_t position, std::uint32_t tokens, float* own) const;
  // @pre before angles() of positions below `end`
  void reserve(std::uint32_t end);

 private:
  void fill(std::span<const float> frequencies, std::uint32_t position, float* target) const;

  model::rope_description rope_;
  std::vector<float> frequencies_;
  std::vector<float> table_;  // [positions][2 * half]
};

}  // namespace troupe::router
