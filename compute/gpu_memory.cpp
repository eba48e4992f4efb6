#include "compute/gpu_memory.hpp"

#include <algorithm>

#include "common/limits.hpp"
#include "compute/packing.hpp"

namespace troupe::compute {
namespace {

constexpr std::size_t pass_share = 32;
constexpr std::size_t pass_bytes_max = limits::gib;
// Numbers beside each assignment of a row to an expert: its row, group, place and weight on the way in, a norm on the
// way out.
constexpr std::size_t bytes_per_assignment = 5 * 4;

}  // namespace

std::size_t gpu_pass_bytes(std::uint64_t device_bytes) {
  return std::min<std::size_t>(pass_bytes_max, device_bytes / pass_share);
}

gpu_memory_need gpu_memory_of(const model::description& model, dtype type, std::uint64_t device_bytes) {
  gpu_memory_need need;
  std::size_t row_bytes = 0;
  for (const auto& layer : model.layers) {
    const auto bytes = packed_expert::of(layer.shape, type, panel_form::rows).bytes();
    need.slot_bytes = std::max(need.slot_bytes, gpu_aligned(bytes));
    row_bytes = std::max(row_bytes, layer.shape.hidden * bytes_per_element(type));
  }
  const auto piece = gpu_pass_bytes(device_bytes);
  // No call has more rows, and merged ones fewer.
  const std::size_t rows = limits::rows_per_request_max;
  const auto numbers = rows * limits::experts_per_token_max * bytes_per_assignment;
  need.scratch_bytes = piece + 2 * std::min(piece, rows * row_bytes) + numbers;
  return need;
}

}  // namespace troupe::compute
