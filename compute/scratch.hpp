// Memory that is used again from batch to batch: grows to the largest size asked for, never moves data over.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace troupe::compute {

class scratch_buffer {
 public:
  // At least `bytes`, aligned to 64, zero where nothing was written yet. Earlier pointers and contents are lost when it
  // grows. Throws std::bad_alloc.
  std::byte* take(std::size_t bytes) {
    if (bytes > bytes_) {
      memory_.reset();
      bytes_ = 0;
      std::size_t rounded = (bytes + 63) / 64 * 64;
      memory_.reset(static_cast<std::byte*>(std::aligned_alloc(64, rounded)));
      if (memory_ == nullptr) throw std::bad_alloc();
      std::memset(memory_.get(), 0, rounded);
      bytes_ = rounded;
    }
    return memory_.get();
  }
  [[nodiscard]] const std::byte* data() const { return memory_.get(); }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  struct release {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, release> memory_;
  std::size_t bytes_{};
};

}  // namespace troupe::compute
