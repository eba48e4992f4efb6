// Cold experts: those that get so little of their layer's rows that their weights have nothing to learn from, and that
// nobody would miss if they were wrong. Plain values; time and figures are passed in, any thread.
//
//   warm ── under `cold_share` of the fair share ──> cold ── `limits::cold_warm_factor` times that share ──> warm
//                                                     └── no other weights for `cold_stale_after`: told once per
//                                                     version
//
// The fair share is one part of as many as there are experts in the layer that take part. Nothing is judged by fewer
// than limits::cold_rows_per_expert_min rows per expert: chance alone would make experts cold.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.hpp"
#include "coordinator/core/policies/policy.hpp"

namespace troupe::coordinator {

// One expert that takes part.
struct watched_expert {
  std::uint32_t index{};
  std::uint64_t rows{};             // in the last minute
  bool is_new{};                    // it came while the others' rows of that minute were counted already: never cold
  weights_version version;          // that it serves
  std::chrono::milliseconds age{};  // of that version, since it came
};

struct watched_layer {
  layer_id id;
  std::vector<watched_expert> experts;
};

struct cold_entry {
  std::chrono::steady_clock::time_point since;
  std::uint64_t rows{};        // newest figures
  std::uint64_t layer_rows{};  // of the whole layer
  double of_fair_share{};
  std::chrono::milliseconds age{};
  weights_version told_stale{};  // the version that was told of; 0: none
};
using cold_experts = std::map<expert_id, cold_entry>;

struct cold_change {
  enum class kind : std::uint8_t { cold, warm, stale };
  kind what{kind::cold};
  expert_id expert;
  std::string why;  // the figures
};
[[nodiscard]] std::string_view to_string(cold_change::kind what);  // of the event: "expert_cold", ...

// Brings `known` up to date and says what has changed, by layer and expert. Experts of `known` that are in no layer are
// forgotten; a layer with too few rows keeps what it has.
[[nodiscard]] std::vector<cold_change> judge_cold(const std::vector<watched_layer>& layers,
                                                  const policy_settings& settings,
                                                  std::chrono::steady_clock::time_point now, cold_experts& known);

// Tells one set of cold experts from another; 0: none are cold.
[[nodiscard]] std::uint64_t fingerprint(const cold_experts& known);

}  // namespace troupe::coordinator
