// Hands out ranges of one block of memory that it never touches: first fit, neighbours are joined when they come back.
// A plain value without OS calls; not thread-safe.
//
// A range whose user may still write to it (a call that was given up while its host was silent) is quarantined: it
// counts as taken until release() says that the user has answered, or the whole pool is thrown away with its memory.
#pragma once

#include <cstdint>
#include <map>
#include <optional>

namespace troupe::wire {

struct memory_range {
  std::uint64_t offset{};
  std::uint64_t bytes{};
  friend bool operator==(const memory_range&, const memory_range&) = default;
};

class range_pool {
 public:
  // Sizes are rounded up to `alignment`, a power of two; every offset is a multiple of it.
  explicit range_pool(std::uint64_t bytes, std::uint64_t alignment = 64);

  // A range of at least `bytes`, or nullopt when there is no gap that large. @pre bytes > 0
  [[nodiscard]] std::optional<memory_range> take(std::uint64_t bytes);
  // Free again, at once. false (and nothing happens) when the range is not taken, or is in quarantine.
  bool give_back(const memory_range& range);
  // Taken until release(). false when the range is not taken.
  bool quarantine(const memory_range& range);
  // The user of a quarantined range has answered: free again. false when the range is not in quarantine.
  bool release(const memory_range& range);

  [[nodiscard]] std::uint64_t bytes_total() const { return total_; }
  [[nodiscard]] std::uint64_t bytes_taken() const { return taken_bytes_; }  // with quarantined ones
  [[nodiscard]] std::uint64_t bytes_quarantined() const { return quarantined_bytes_; }

 private:
  struct taken_range {
    std::uint64_t bytes{};
    bool quarantined{};
  };
  using taken_map = std::map<std::uint64_t, taken_range>;
  [[nodiscard]] taken_map::iterator find(const memory_range& range);
  void free_range(taken_map::iterator range);

  std::uint64_t total_;
  std::uint64_t alignment_;
  std::uint64_t taken_bytes_{};
  std::uint64_t quarantined_bytes_{};
  std::map<std::uint64_t, std::uint64_t> free_;  // offset -> bytes; no two touch
  taken_map taken_;
};

}  // namespace troupe::wire
