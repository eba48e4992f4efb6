#include "compute/arena.hpp"

#include <sys/mman.h>

#include <cassert>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::compute {
namespace {

constexpr std::size_t page_bytes = 4096;
constexpr std::size_t huge_page_bytes = 2 * limits::mib;

std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// Huge pages save most of the address translation of a streaming read. Slots that have room for one begin on one; only
// whole huge pages of a slot are asked for, so that no byte is resident that the slot does not use.
std::size_t unit_of(std::size_t bytes_per_slot) {
  return bytes_per_slot >= huge_page_bytes ? huge_page_bytes : page_bytes;
}

}  // namespace

result<slot_arena> slot_arena::make(std::uint32_t slots, std::size_t bytes_per_slot) {
  if (slots == 0 || slots > limits::device_slots_max || bytes_per_slot == 0) {
    return fail(errc::invalid_request, fmt::format("an arena of {} slots of {} bytes; use 1 to {} slots of at least 1",
                                                   slots, bytes_per_slot, limits::device_slots_max));
  }
  if (bytes_per_slot > std::numeric_limits<std::size_t>::max() / 2 / slots - 2 * huge_page_bytes) {
    return fail(errc::out_of_memory, fmt::format("{} slots of {} bytes do not fit the address space; use fewer slots",
                                                 slots, bytes_per_slot));
  }
  slot_arena arena;
  std::size_t unit = unit_of(bytes_per_slot);
  arena.stride_ = round_up(bytes_per_slot, unit);
  arena.mapped_bytes_ = arena.stride_ * slots + unit;  // room to begin on a whole unit
  void* base =
      mmap(nullptr, arena.mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return fail(errc::out_of_memory,
                fmt::format("no address space for {} slots of {} bytes: {}; use fewer slots or raise the limit", slots,
                            bytes_per_slot, std::strerror(errno)));
  }
  arena.mapped_ = static_cast<std::byte*>(base);
  auto address = reinterpret_cast<std::uintptr_t>(base);
  arena.base_ = arena.mapped_ + (round_up(address, unit) - address);
  arena.bytes_per_slot_ = bytes_per_slot;
  arena.slots_ = slots;
  // Hints: a kernel without huge pages refuses them, and that is fine.
  madvise(base, arena.mapped_bytes_, MADV_NOHUGEPAGE);
  std::size_t huge = bytes_per_slot / huge_page_bytes * huge_page_bytes;
  for (std::uint32_t i = 0; huge != 0 && i < slots; ++i) madvise(arena.base_ + arena.stride_ * i, huge, MADV_HUGEPAGE);
  return arena;
}

slot_arena::slot_arena(slot_arena&& other) noexcept
    : mapped_(std::exchange(other.mapped_, nullptr)),
      mapped_bytes_(std::exchange(other.mapped_bytes_, 0)),
      base_(std::exchange(other.base_, nullptr)),
      stride_(std::exchange(other.stride_, 0)),
      bytes_per_slot_(std::exchange(other.bytes_per_slot_, 0)),
      slots_(std::exchange(other.slots_, 0)) {}

slot_arena& slot_arena::operator=(slot_arena&& other) noexcept {
  if (this == &other) return *this;
  unmap();
  mapped_ = std::exchange(other.mapped_, nullptr);
  mapped_bytes_ = std::exchange(other.mapped_bytes_, 0);
  base_ = std::exchange(other.base_, nullptr);
  stride_ = std::exchange(other.stride_, 0);
  bytes_per_slot_ = std::exchange(other.bytes_per_slot_, 0);
  slots_ = std::exchange(other.slots_, 0);
  return *this;
}

slot_arena::~slot_arena() { unmap(); }

std::span<std::byte> slot_arena::slot(slot_index slot) const {
  assert(slot.value < slots_);
  return {base_ + stride_ * slot.value, bytes_per_slot_};
}

void slot_arena::release(slot_index slot) {
  assert(slot.value < slots_);
  std::byte* first = base_ + stride_ * slot.value;
  // Locked memory cannot be given back; the slot's promise to be zero holds all the same.
  if (madvise(first, stride_, MADV_DONTNEED) != 0) std::memset(first, 0, stride_);
}

void slot_arena::unmap() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
}

}  // namespace troupe::compute
