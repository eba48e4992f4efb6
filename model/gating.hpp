// From router logits to chosen experts and their weights, exactly as each family defines it. Pure functions, fp32
// inside (as transformers 4.57 computes them); any thread. The logits themselves (x W^T + b) are the caller's product.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "model/description.hpp"

namespace troupe::model {

// Parameters of one layer's gate, in f32.
struct gate_parameters {
  std::vector<float> weight;           // [N, H]
  std::vector<float> bias;             // [N] or empty
  std::vector<float> correction_bias;  // [N] or empty
};

struct routing {
  std::uint32_t top_k{};
  std::vector<std::int32_t> expert_ids;  // [T, k], best first; the choice before capacity
  std::vector<float> weights;            // [T, k]
  std::vector<std::uint8_t> dropped;     // [T, k]: 1 where the capacity dropped the assignment; empty when dropless
  std::vector<std::uint8_t> limited{};   // [T]: 1 where a group_limit changed the choice; empty: no limit at work
  std::vector<std::uint8_t> explored{};  // [T]: 1 where an exploration changed the choice; empty: none at work
};

// Which experts may be chosen; empty span: all. mask[e] != 0 means present.
// A masked expert is taken out where the family's own definition loses it, so that the result is that of a model which
// never had it:
//   mixtral, qwen2_moe, qwen3_moe, olmoe, deepseek_v2, switch_transformers, vmoe: before the softmax. Without
//     renormalisation (qwen2_moe, olmoe, deepseek_v2, switch_transformers, vmoe) a mask behind it would leave the
//     weights too small by the missing experts' share; with it both give the same.
//   deepseek_v3: before the choice. A sigmoid knows nothing of the other experts.
//   gpt_oss: before the choice. Its softmax sees the chosen ones only.
// Groups: a group's score counts its present experts (of one alone: that one), and a group is passed over when keeping
// it would leave fewer than k present experts in the kept groups. Capacity counts what was chosen under the mask.
using expert_mask = std::span<const std::uint8_t>;

// An option, and an approximation: rows try cold experts that come close. A cold expert's gate probability counts with
// `bias` on top in the choice, for one place of a row: its last chosen expert gives way to the cold one with the
// largest probability, if that is less by at most `bias`. So a row loses at most `bias` of gate probability. Weights
// are those that the family defines for the experts that were chosen. Gate probability: the softmax over the experts
// that the mask allows; of a sigmoid gate the score divided by the sum of theirs.
struct exploration {
  std::span<const std::uint8_t> cold;  // [N], 1: cold; empty: no exploration
  float bias{};                        // > 0
};

// logits [T, N] row-major. @pre logits.size() == T * N; mask is empty or N long.
// Equal scores: the lower index wins.
// unavailable when fewer than k experts can be chosen under the mask and the group rule; invalid_request naming the row
// when its logits are not finite.
[[nodiscard]] result<routing> choose_experts(const gating& gate, std::span<const float> correction_bias,
                                             std::span<const float> logits, expert_mask mask = {},
                                             const exploration& exploring = {});

// Whether rows of this gate may explore: conflict when it has a capacity, as rows that moved would push others out.
[[nodiscard]] result<void> check_exploration(const gating& gate);

// An option for families whose gate knows no groups, and an approximation: neighbouring experts make `groups` groups of
// equal size, and a row chooses inside its `kept` best groups only. A group scores by its best
// expert: measured (bench/groups), that costs less than the sum of its two best, and nothing at all with kept >= k,
// where the k best experts are in the kept groups by themselves.
struct group_limit {
  std::uint32_t groups{};  // 0: no limit
  std::uint32_t kept{2};
};

// Each layer's gate under the limit, in the order of model.layers; without a limit the gates as they are.
// invalid_request with layer and numbers when the experts cannot be cut like that or the kept groups hold fewer than k;
// conflict when the family's own gate has groups, or a capacity.
[[nodiscard]] result<std::vector<gating>> limit_groups(const description& model, const group_limit& limit);

// choose_experts under the `limited` gate; routing::limited says which rows would have got other experts by the `whole`
// one. Where the mask leaves too few experts in the kept groups, all rows choose by the whole gate. Errors and @pre as
// choose_experts. @pre limited is what limit_groups made of `whole`
[[nodiscard]] result<routing> choose_limited(const gating& whole, const gating& limited,
                                             std::span<const float> correction_bias, std::span<const float> logits,
                                             expert_mask mask = {});

// Whether rows can be gated under the mask at all: unavailable with the numbers when no choice of groups leaves k
// experts.
[[nodiscard]] result<void> check_mask(const gating& gate, expert_mask mask);

// What rows lose by a mask. Per expert, 0 for those that may be chosen:
struct masked_load {
  std::vector<double> mass;         // [N] sum over the rows of the gate probability that the whole gate gives it
  std::vector<std::uint64_t> rows;  // [N] rows whose k best it would be among
};
// Gate probability: the softmax over all N experts; of a sigmoid gate the score divided by the sum of all N scores.
// @pre as choose_experts; mask is not empty; the logits are finite
[[nodiscard]] masked_load look_behind_mask(const gating& gate, std::span<const float> correction_bias,
                                           std::span<const float> logits, expert_mask mask);

// Plain x W^T + b with f64 accumulation, for tests: hidden [T, H] -> logits [T, N].
[[nodiscard]] std::vector<float> reference_logits(const gating& gate, const gate_parameters& parameters,
                                                  std::span<const float> hidden, std::uint32_t hidden_size);

}  // namespace troupe::model
