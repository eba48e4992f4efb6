// What routers have kept of the rows that went to a cold expert, as one safetensors file for whoever trains it.
#pragma once

#include <cstdint>
#include <filesystem>

#include "cli/context.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::cli {

struct exported_inputs {
  std::uint64_t rows{};
  std::uint64_t rows_seen{};  // that they were drawn from
  std::uint64_t epoch{};      // of the newest map that one of them was answered under
  std::uint64_t bytes{};      // of the file
};

// Asks every router of the context with the key of the person who types, and writes `out`, which is replaced as a
// whole:
//   hidden_states [n, H] in the dtype in which rows travel, expert_weights [n] f32 (of the gate), sample_weight [n] f32
//   metadata: model, layer, expert, epoch, rows_seen
// not_found when no router has kept a row; conflict when they keep none at all; unavailable, permission_denied.
[[nodiscard]] result<exported_inputs> export_inputs(const std::filesystem::path& data_dir,
                                                    const cluster_context& context, const expert_id& expert,
                                                    const std::filesystem::path& out);

}  // namespace troupe::cli
