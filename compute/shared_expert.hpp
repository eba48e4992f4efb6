// The MLP of a layer that every row passes (model::shared_expert), added to what the routed experts gave.
//
// Thread rule: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "compute/work_team.hpp"
#include "model/description.hpp"

namespace troupe::compute {

// Weights in f32, as checkpoint::read_f32 gives them; not needed after make.
struct shared_expert_weights {
  std::span<const float> gate;          // [I, H]; empty for the plain activations
  std::span<const float> up;            // [I, H]
  std::span<const float> down;          // [H, I]
  std::span<const float> sigmoid_gate;  // [H] or empty
};

class shared_expert {
 public:
  // Kept and computed in `type` (f32 or bf16; sums are f32). Others may use the team, too, from the same thread.
  // invalid_request when sizes do not fit.
  [[nodiscard]] static result<shared_expert> make(const shared_expert_weights& weights, std::uint32_t hidden,
                                                  std::uint32_t width, model::activation act, dtype type,
                                                  std::shared_ptr<work_team> team);
  shared_expert(shared_expert&&) noexcept;
  shared_expert& operator=(shared_expert&&) noexcept;
  ~shared_expert();

  // y[r] += sigmoid(x[r] . sigmoid_gate) * MLP(x[r]), the factor 1 without such a gate. x, y: [rows, H] f32, apart.
  [[nodiscard]] result<void> add_to(const float* x, std::uint32_t rows, float* y);

  [[nodiscard]] std::size_t bytes() const;  // resident: weights and scratch

 private:
  struct state;
  explicit shared_expert(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::compute
