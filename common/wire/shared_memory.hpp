// POSIX shared memory for tensors between two processes of one machine and user.
//
// The router creates a segment per link, offers it in Hello, and unlinks the name when the host has mapped it (or has
// declined): from then on nothing is left behind by a crash. Names of processes that died in between are removed by
// remove_stale_segments(), which every daemon calls when it starts. Ranges inside: range_pool.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "common/error.hpp"
#include "common/wire/range_pool.hpp"

namespace troupe::wire {

// Same value: same running machine (containers of one host share it). Any thread.
[[nodiscard]] const std::string& machine_id();

class shared_segment {
 public:
  // A new segment of `bytes` zeroes, mode 0600, all of its memory reserved (a segment that runs out of memory later
  // would kill the writer). no_space when /dev/shm has not that much; too_large above limits::segment_bytes_max.
  [[nodiscard]] static result<shared_segment> create(std::string_view cluster_id, std::uint64_t bytes);
  // Maps what a peer offers. invalid_request when the name is none of ours or the object is not that large;
  // not_found when it is gone; permission_denied when it belongs to another user.
  [[nodiscard]] static result<shared_segment> open(std::string_view name, std::uint64_t bytes);

  shared_segment(shared_segment&& other) noexcept;
  shared_segment& operator=(shared_segment&& other) noexcept;
  // Unmaps; a creator also unlinks the name if that has not been done.
  ~shared_segment();

  [[nodiscard]] std::span<std::byte> bytes() const { return {data_, size_}; }
  // "/troupe-CLUSTER-PID-NUMBER"
  [[nodiscard]] const std::string& name() const { return name_; }
  // The peer has mapped it: nobody needs the name any more. Idempotent; the mapping stays.
  void unlink();

 private:
  shared_segment(std::string name, std::byte* data, std::size_t size, bool owns_name);
  std::string name_;
  std::byte* data_{};
  std::size_t size_{};
  bool owns_name_{};
};

// Removes segments of ours whose creator no longer lives; returns how many.
std::size_t remove_stale_segments();

}  // namespace troupe::wire
