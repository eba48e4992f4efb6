// What devices do alike: the arena, which slot holds what, checks of batches, time shares.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "compute/arena.hpp"
#include "compute/bundle_plan.hpp"
#include "compute/device.hpp"
#include "compute/packing.hpp"

namespace troupe::compute {

// Which slot holds what, and the checks that go with it.
class slot_contents {
 public:
  void resize(std::uint32_t slots) { contents_.resize(slots); }
  [[nodiscard]] std::size_t size() const { return contents_.size(); }
  [[nodiscard]] bool holds(slot_index slot, const model::expert_shape& shape) const;
  // Where the weights of a bundle lie, when it may be loaded into that slot as `expert_bytes`. conflict: the slot is
  // not empty; invalid_request: there is no such slot, the bundle does not fit the layout, or the expert not the slot.
  [[nodiscard]] result<bundle_plan> check_load(slot_index slot, const model::bundle_layout& layout,
                                               std::size_t bundle_bytes, std::size_t expert_bytes,
                                               std::size_t slot_bytes) const;
  // The same for giving the bundle back from weights of type `packed`. invalid_request, also when they were rounded.
  [[nodiscard]] result<bundle_plan> check_export(slot_index slot, const model::bundle_layout& layout,
                                                 std::size_t target_bytes, dtype packed) const;
  void set(slot_index slot, const model::expert_shape& shape) { contents_[slot.value] = shape; }
  void clear(slot_index slot) {
    if (slot.value < contents_.size()) contents_[slot.value].reset();
  }

 private:
  [[nodiscard]] result<void> check_index(slot_index slot) const;

  std::vector<std::optional<model::expert_shape>> contents_;
};

class slot_table {
 public:
  slot_table(dtype packed_type, panel_form form) : type_(packed_type), form_(form) {}

  [[nodiscard]] packed_expert packed(const model::expert_shape& shape) const {
    return packed_expert::of(shape, type_, form_);
  }
  [[nodiscard]] std::size_t arena_bytes() const { return arena_.bytes(); }

  [[nodiscard]] result<void> reserve(std::uint32_t slots, std::size_t bytes_per_slot);
  [[nodiscard]] result<void> load(slot_index slot, const model::bundle_layout& layout,
                                  std::span<const std::byte> bundle);
  [[nodiscard]] result<void> export_bundle(slot_index slot, const model::bundle_layout& layout,
                                           std::span<std::byte> target) const;
  void unload(slot_index slot);

  // nullptr: nothing loaded.
  [[nodiscard]] const std::byte* find(slot_index slot, const model::expert_shape& shape) const;

 private:
  dtype type_;
  panel_form form_;
  slot_arena arena_;
  slot_contents contents_;
};

// Pointers to the rows of a batch, in the order in which group rows count.
struct batch_rows {
  std::vector<const std::byte*> inputs;
  std::vector<std::byte*> outputs;
};

// Fills `rows`; invalid_request names what is wrong: an empty slot, a slot of another shape, a row past the segments,
// lists of unequal length, too few reports. `holds`: is an expert of the batch's shape in that slot?
[[nodiscard]] result<void> check_batch(const batch& work, std::span<group_report> reports,
                                       const std::function<bool(slot_index)>& holds, dtype type, batch_rows& rows);

// Splits the time of a batch over its groups by weight bytes and rows.
void share_seconds(double seconds, const batch& work, std::span<group_report> reports);

// "Intel(R) Xeon(R) Processor" as the system names it, or "x86-64 processor".
[[nodiscard]] const std::string& processor_name();

[[nodiscard]] result<void> check_options(const cpu_options& options);

}  // namespace troupe::compute
