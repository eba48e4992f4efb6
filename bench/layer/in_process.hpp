// The same layer with the same kernels in this process: gate, experts and sum without a wire between them.
// One thread (the device has its own helpers).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>

#include "common/error.hpp"

namespace troupe::bench {

class in_process_layer {
 public:
  // Loads every expert of the checkpoint's first layer, bf16, on `threads` threads.
  [[nodiscard]] static result<in_process_layer> load(const std::filesystem::path& model, std::uint32_t threads);
  in_process_layer(in_process_layer&&) noexcept;
  in_process_layer& operator=(in_process_layer&&) noexcept;
  ~in_process_layer();

  // rows [T, H] as bf16 bits -> output [T, H] as bf16 bits, valid until the next call.
  [[nodiscard]] result<std::span<const std::uint16_t>> run(std::span<const std::uint16_t> rows);

  // Different experts that the last call read, and the bytes of one expert's weights.
  [[nodiscard]] std::size_t experts_read() const;
  [[nodiscard]] std::uint64_t expert_bytes() const;

 private:
  struct state;
  explicit in_process_layer(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

// GB/s at which `threads` threads read memory that no cache holds, median of a few passes.
[[nodiscard]] double read_bandwidth(std::uint32_t threads);

}  // namespace troupe::bench
