// What a simulation found, as a document (docs/cli.md) and as tables. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "cli/render.hpp"
#include "cli/simulation/load_simulation.hpp"

namespace troupe::cli {

// Of one run, over all its steps.
struct run_summary {
  double imbalance_mean{};   // mean over steps of imbalance_mean
  double imbalance_worst{};  // the largest imbalance_max
  std::uint64_t moves{};     // of all layers and steps
  std::uint64_t moved_bytes{};
  std::uint64_t resident_bytes_end{}, resident_bytes_max{};
  double cold_experts{};          // mean over steps, all layers
  double masked_share{};          // mean over steps, of the load
  double unserved_share_worst{};  // of the load of one step
  double plan_ms{};               // mean over steps
};
[[nodiscard]] run_summary summarize(const simulated_run& run, std::size_t layers);

// As 16 hexadecimal digits.
[[nodiscard]] std::string digest_text(std::uint64_t digest);

[[nodiscard]] json step_document(const simulated_step& step);
[[nodiscard]] json summary_document(const simulated_run& run, std::size_t layers);
// [{layer, nodes: [[experts of node 0], ...]}]
[[nodiscard]] json placement_document(const simulated_step& step, std::span<const std::uint32_t> layers,
                                      std::span<const std::uint32_t> node_slots);

// One line per run and step: every figure that replays, under a line with their names.
[[nodiscard]] std::string csv_text(std::span<const simulated_run> runs);

[[nodiscard]] view step_view();     // of `items`: steps
[[nodiscard]] view summary_view();  // of `items`: one per run, with `planner`

}  // namespace troupe::cli
