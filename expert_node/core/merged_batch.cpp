#include "expert_node/core/merged_batch.hpp"

namespace troupe::expert {

std::uint32_t merged_batch::add_rows(const std::byte* input, std::byte* output, std::uint32_t rows) {
  segments_.push_back({input, output, rows});
  first_row_.push_back(rows_);
  rows_ += rows;
  return static_cast<std::uint32_t>(first_row_.size() - 1);
}

void merged_batch::add_expert(std::uint32_t call_number, const expert_call& call, std::size_t first, std::size_t count,
                              const expert_id& expert, slot_index slot) {
  auto& merged = groups_[{expert, slot}];
  ++merged.calls;
  for (std::size_t entry = first; entry < first + count; ++entry) {
    merged.rows.push_back(first_row_.at(call_number) + call.row_index[entry]);
    merged.gate_weights.push_back(call.gate_weight[entry]);
  }
}

compute::batch merged_batch::view(const model::expert_shape& shape) {
  views_.clear();
  facts_.clear();
  for (const auto& [key, merged] : groups_) {
    views_.push_back({key.slot, merged.rows, merged.gate_weights});
    facts_.push_back({key.expert, merged.rows.size(), merged.calls});
  }
  return {shape, segments_, views_};
}

std::span<const std::byte> merged_batch::first_row_of(std::size_t number, std::size_t bytes) const {
  std::size_t row = views_[number].rows.front();
  auto at = segments_.begin();
  for (; row >= at->rows; ++at) row -= at->rows;
  return {at->input + row * bytes, bytes};
}

}  // namespace troupe::expert
