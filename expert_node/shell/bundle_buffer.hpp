// Memory for one bundle on its way: whole pages straight from the system, or shared with another node of this machine;
// given back the moment it is dropped, so that loading leaves nothing behind in the allocator's pools. Movable, one
// owner; no thread rule.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "common/error.hpp"
#include "common/wire/shared_memory.hpp"

namespace troupe::expert {

class bundle_buffer {
 public:
  // out_of_memory with the size when the system refuses.
  [[nodiscard]] static result<bundle_buffer> make(std::size_t bytes);
  // The first `bytes` of the segment, which lives at least as long.
  [[nodiscard]] static bundle_buffer of(std::shared_ptr<const wire::shared_segment> segment, std::size_t bytes);

  bundle_buffer() = default;
  bundle_buffer(bundle_buffer&& other) noexcept;
  bundle_buffer& operator=(bundle_buffer&& other) noexcept;
  ~bundle_buffer();

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
  std::shared_ptr<const wire::shared_segment> segment_;  // none: the pages are the buffer's own
};

}  // namespace troupe::expert
