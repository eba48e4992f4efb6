// Memory for one bundle on its way: whole pages straight from the system, given back the moment it is dropped, so that
// loading leaves nothing behind in the allocator's pools. Movable, one owner; no thread rule.
#pragma once

#include <cstddef>
#include <span>

#include "common/error.hpp"

namespace troupe::expert {

class bundle_buffer {
 public:
  // out_of_memory with the size when the system refuses.
  [[nodiscard]] static result<bundle_buffer> make(std::size_t bytes);

  bundle_buffer() = default;
  bundle_buffer(bundle_buffer&& other) noexcept;
  bundle_buffer& operator=(bundle_buffer&& other) noexcept;
  ~bundle_buffer();

  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }

 private:
  std::span<std::byte> bytes_;
};

}  // namespace troupe::expert
