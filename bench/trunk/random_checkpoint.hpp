// A Mixtral checkpoint of random bf16 weights on disk, with experts as small as they can be: only its trunk is meant.
#pragma once

#include <cstdint>
#include <filesystem>

namespace troupe::bench {

struct checkpoint_sizes {
  std::uint32_t hidden{}, layers{}, heads{}, kv_heads{}, vocabulary{};
};

// In a new folder under the system's temporary one; the caller removes it. Throws std::runtime_error.
[[nodiscard]] std::filesystem::path write_random_checkpoint(const checkpoint_sizes& sizes);

}  // namespace troupe::bench
