// One piece of address space, cut into equal slots. Only pages that somebody wrote to are resident; releasing a slot
// gives its pages back to the system. Not synchronised: different slots may be used from different threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/error.hpp"
#include "common/ids.hpp"

namespace troupe::compute {

class slot_arena {
 public:
  // out_of_memory names both numbers when the address space is refused; invalid_request when a number is zero or past
  // limits::device_slots_max.
  [[nodiscard]] static result<slot_arena> make(std::uint32_t slots, std::size_t bytes_per_slot);

  slot_arena() = default;
  slot_arena(slot_arena&& other) noexcept;
  slot_arena& operator=(slot_arena&& other) noexcept;
  ~slot_arena();

  [[nodiscard]] std::uint32_t slots() const { return slots_; }
  [[nodiscard]] std::size_t bytes_per_slot() const { return bytes_per_slot_; }  // as asked for
  [[nodiscard]] std::size_t bytes() const { return bytes_per_slot_ * slots_; }

  // @pre slot.value < slots(). Starts on a page of its own; zero where nothing was written since make or release.
  [[nodiscard]] std::span<std::byte> slot(slot_index slot) const;
  // @pre slot.value < slots()
  void release(slot_index slot);

 private:
  void unmap();

  std::byte* mapped_{};  // what the system gave; the first slot stands at base_
  std::size_t mapped_bytes_{};
  std::byte* base_{};
  std::size_t stride_{};
  std::size_t bytes_per_slot_{};
  std::uint32_t slots_{};
};

}  // namespace troupe::compute
