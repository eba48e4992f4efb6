// What a checkpoint's MoE layers look like, whatever its family: the one vocabulary that gating, bundles, compute,
// router and coordinator share. Plain values, filled by the family files (model/families/*.cpp), read-only afterwards.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"

namespace troupe::model {

// -- experts ------------------------------------------------------------------------------------------------------

// y = down( act(gate x) * (up x) ) for the gated kinds, y = down( act(up x) ) for the plain ones; biases inside.
enum class activation : std::uint8_t {
  swiglu,       // silu(g) * u
  clamped_glu,  // gpt_oss: g' = min(g, 7), u' = clamp(u, -7, 7); (u' + 1) * g' * sigmoid(1.702 g')
  relu,         // switch_transformers
  gelu_erf,     // exact
  gelu_tanh,    // tanh approximation
};

[[nodiscard]] constexpr bool is_gated(activation a) { return a == activation::swiglu || a == activation::clamped_glu; }

// The arithmetic of one expert. Two experts of equal shape fit the same slot.
struct expert_shape {
  std::uint32_t hidden{};  // H: length of a row
  std::uint32_t width{};   // I: length between the two products
  activation act{activation::swiglu};
  bool has_bias{};  // on every product
  friend bool operator==(const expert_shape&, const expert_shape&) = default;
};

// What a tensor of a bundle is. `gate_up` holds both, interleaved along the width: even = gate, odd = up.
enum class tensor_role : std::uint8_t {
  gate,
  up,
  down,
  gate_up,
  gate_bias,
  up_bias,
  down_bias,
  gate_up_bias,
  gate_scale,  // of quantised weights, see model/quantised.hpp
  up_scale,
  down_scale,
  gate_up_scale
};

[[nodiscard]] constexpr bool is_weight(tensor_role role) { return role <= tensor_role::gate_up; }
[[nodiscard]] constexpr bool is_scale(tensor_role role) { return role >= tensor_role::gate_scale; }
// @pre is_weight(weight)
[[nodiscard]] constexpr tensor_role scale_of(tensor_role weight) {
  return static_cast<tensor_role>(static_cast<int>(weight) + static_cast<int>(tensor_role::gate_scale));
}

// How many neighbouring outputs and inputs of a quantised matrix share a scale. Blocks at the edges may be smaller.
struct scale_block {
  std::uint32_t outputs{1};
  std::uint32_t inputs{1};
  friend bool operator==(const scale_block&, const scale_block&) = default;
};

// One tensor of one expert: a byte range of a checkpoint tensor. Weights are [out, in] row-major unless transposed.
struct bundle_tensor {
  tensor_role role{tensor_role::gate};
  std::string name;                  // of the checkpoint tensor that the range is cut from
  dtype type{dtype::bf16};           // of weights also f8_e4m3 and, for mxfp4, u8
  std::vector<std::uint64_t> shape;  // of this expert's piece
  bool transposed{};                 // stored [in, out] (gpt_oss)
  std::uint32_t file{};              // index into checkpoint::files()
  std::uint64_t offset{};            // absolute, in the file
  std::uint64_t bytes{};
};

// Every tensor that belongs to one expert, in the order in which the digest and a transfer take their bytes.
struct bundle_layout {
  expert_id id;
  expert_shape shape;
  dtype stored{dtype::bf16};  // of the weights
  scale_block block;          // of the scales, if there are any
  std::vector<bundle_tensor> tensors;
  [[nodiscard]] std::uint64_t bytes() const;
};

// The shape of one expert's piece as stored: a weight [out, in] (or transposed [in, out]; in mxfp4 [out, in / 32, 16]
// bytes), a bias [out], a scale for each block of its weight. @pre block is not zero
[[nodiscard]] std::vector<std::uint64_t> stored_shape(tensor_role role, const expert_shape& shape, bool transposed,
                                                      bool is_mxfp4, const scale_block& block);

// What weights that are stored as this are computed in when nobody asks for something else: f32 where bf16 would lose
// what f32 and f16 hold, else bf16. Quantised weights are meant for bf16.
[[nodiscard]] constexpr dtype default_compute_type(dtype stored) {
  return stored == dtype::f32 || stored == dtype::f16 ? dtype::f32 : dtype::bf16;
}
// How people call weights that are stored as this: "BF16", "F8_E4M3", "MXFP4" (whose bytes are u8).
[[nodiscard]] std::string_view stored_name(dtype stored);

// -- gating -------------------------------------------------------------------------------------------------------

enum class score_function : std::uint8_t {
  softmax,           // over all experts, then top-k (most families)
  sigmoid,           // per expert (deepseek_v3)
  softmax_of_top_k,  // top-k on logits, softmax over those (gpt_oss)
};
enum class group_score : std::uint8_t { none, max, sum_of_two_largest };  // deepseek_v2, deepseek_v3
enum class renormalise : std::uint8_t { never, always };

// How a layer with a capacity drops tokens. One call is one sequence (Switch) or one group (V-MoE).
enum class fill_order : std::uint8_t {
  none,   // dropless
  token,  // Switch: running count per expert in token order; V-MoE: all first choices, then all second, in token order
  batch_priority,  // V-MoE: as token, but tokens ordered by their largest gate weight
};

struct capacity_rule {
  fill_order order{fill_order::none};
  std::optional<std::uint32_t> fixed;  // an absolute count per expert and call
  double factor{};                     // else round(T * k * factor / E)
};

struct gating {
  std::uint32_t num_experts{};
  std::uint32_t top_k{};
  score_function score{score_function::softmax};
  renormalise renorm{renormalise::never};
  double renorm_epsilon{};  // added to the sum before dividing (deepseek_v3: 1e-20)
  double scale{1.0};        // routed_scaling_factor
  group_score groups{group_score::none};
  std::uint32_t num_groups{1};
  std::uint32_t top_k_groups{1};
  capacity_rule capacity;
  std::string weight;           // tensor [N, H]
  std::string bias;             // added to the logits, [N]; empty: none (gpt_oss, switch with router_bias)
  std::string correction_bias;  // added to the score for the choice only, [N]; empty: none (deepseek_v3)
};

// -- layers and the model -------------------------------------------------------------------------------------------

// A dense MLP that every row passes, added to the routed output. Empty names: the layer has none.
struct shared_expert {
  std::uint32_t width{};
  activation act{activation::swiglu};
  std::string gate, up, down;  // tensor names, [I, H], [I, H], [H, I]
  std::string sigmoid_gate;    // tensor [1, H] whose sigmoid scales the shared output (qwen2_moe); empty: unscaled
};

struct moe_layer {
  layer_id id;
  gating gate;
  expert_shape shape;
  std::optional<shared_expert> shared;
  std::vector<bundle_layout> experts;  // by index
};

struct description {
  std::string name;    // the folder's name
  std::string family;  // config.json's model_type
  std::uint32_t hidden{};
  dtype stored{dtype::bf16};      // of the expert weights
  scale_block block;              // of scales beside fp8 weights, those outside of experts too
  std::vector<moe_layer> layers;  // ordered by id; dense blocks are absent
  std::string fingerprint;        // hex SHA-256 over config.json and every tensor's name, shape, dtype and place

  [[nodiscard]] const moe_layer* find(layer_id layer) const;  // nullptr: no MoE layer of that number
  [[nodiscard]] const bundle_layout* find(const expert_id& expert) const;
  [[nodiscard]] std::uint64_t bundle_bytes() const;  // all experts together, as stored
};

}  // namespace troupe::model
