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

// Huge pages save most of the address translation of a streaming read. Only the whole huge pages inside a slot are
// asked for: one that spanned two slots would keep the pages of an empty neighbour resident.
void prefer_huge_pages(std::byte* slot, std::size_t bytes) {
  auto address = reinterpret_cast<std::uintptr_t>(slot);
  std::size_t head = round_up(address, huge_page_bytes) - address;
  if (head + huge_page_bytes > bytes) return;
  std::size_t inner = (bytes - head) / huge_page_bytes * huge_page_bytes;
  madvise(slot + head, inner, MADV_HUGEPAGE);  // a hint: a kernel without huge pages refuses it, and that is fine
}

}  // namespace

result<slot_arena> slot_arena::make(std::uint32_t slots, std::size_t bytes_per_slot) {
  if (slots == 0 || slots > limits::device_slots_max || bytes_per_slot == 0) {
    return fail(errc::invalid_request, fmt::format("an arena of {} slots of {} bytes; use 1 to {} slots of at least 1",
                                                   slots, bytes_per_slot, limits::device_slots_max));
  }
  if (bytes_per_slot > std::numeric_limits<std::size_t>::max() / 2 / slots - page_bytes) {
    return fail(errc::out_of_memory, fmt::format("{} slots of {} bytes do not fit the address space; use fewer slots",
                                                 slots, bytes_per_slot));
  }
  slot_arena arena;
  arena.stride_ = round_up(bytes_per_slot, page_bytes);
  void* base =
      mmap(nullptr, arena.stride_ * slots, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return fail(errc::out_of_memory,
                fmt::format("no address space for {} slots of {} bytes: {}; use fewer slots or raise the limit", slots,
                            bytes_per_slot, std::strerror(errno)));
  }
  arena.base_ = static_cast<std::byte*>(base);
  arena.bytes_per_slot_ = bytes_per_slot;
  arena.slots_ = slots;
  madvise(base, arena.bytes(), MADV_NOHUGEPAGE);
  for (std::uint32_t i = 0; i < slots; ++i) prefer_huge_pages(arena.base_ + arena.stride_ * i, arena.stride_);
  return arena;
}

slot_arena::slot_arena(slot_arena&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      stride_(std::exchange(other.stride_, 0)),
      bytes_per_slot_(std::exchange(other.bytes_per_slot_, 0)),
      slots_(std::exchange(other.slots_, 0)) {}

slot_arena& slot_arena::operator=(slot_arena&& other) noexcept {
  if (this == &other) return *this;
  unmap();
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
  if (base_ != nullptr) munmap(base_, bytes());
}

}  // namespace troupe::compute
