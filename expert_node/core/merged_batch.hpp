// Several calls of one layer as one job of the device: their rows behind each other, one group per slot.
// Groups are ordered by expert, so that a row's sum does not depend on who else is in the batch. Belongs to the host.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "common/ids.hpp"
#include "compute/device.hpp"
#include "expert_node/core/expert_call.hpp"
#include "model/description.hpp"

namespace troupe::expert {

class merged_batch {
 public:
  // Where the device reads and writes a call's rows: the call's own memory, or a copy in the device's dtype.
  // Returns the number that the call has in add().
  std::uint32_t add_rows(const std::byte* input, std::byte* output, std::uint32_t rows);
  // Entries [first, first + count) of the call's assignments go to the expert in `slot`.
  void add_expert(std::uint32_t call_number, const expert_call& call, std::size_t first, std::size_t count,
                  const expert_id& expert, slot_index slot);

  // What the device is given; valid until the next change of this object.
  [[nodiscard]] compute::batch view(const model::expert_shape& shape);

  // One line per group of the view, in its order.
  struct group_facts {
    expert_id expert;
    std::uint64_t rows{};
    std::uint64_t calls{};
  };
  [[nodiscard]] std::span<const group_facts> groups() const { return facts_; }
  [[nodiscard]] std::uint32_t rows() const { return rows_; }
  // The first row of the group with that number in the view, as the device reads it. @pre `bytes` is what a row has
  [[nodiscard]] std::span<const std::byte> first_row_of(std::size_t number, std::size_t bytes) const;

 private:
  struct group {
    std::vector<std::uint32_t> rows;
    std::vector<float> gate_weights;
    std::uint64_t calls{};
  };
  struct group_key {
    expert_id expert;
    slot_index slot;
    friend auto operator<=>(const group_key&, const group_key&) = default;
  };

  std::uint32_t rows_{};
  std::vector<std::uint32_t> first_row_;  // of each call
  std::vector<compute::segment> segments_;
  std::map<group_key, group> groups_;
  std::vector<compute::expert_group> views_;
  std::vector<group_facts> facts_;
};

}  // namespace troupe::expert
