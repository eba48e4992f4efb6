// How large this node's arena shall be. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "common/error.hpp"
#include "compute/device.hpp"
#include "expert_node/shell/expert_host.hpp"
#include "model/description.hpp"

namespace troupe::expert {

struct arena_wishes {
  std::optional<std::uint32_t> slots{};         // --slots
  std::optional<std::uint64_t> memory_bytes{};  // --memory
  std::uint64_t available_bytes{};              // that the machine could give now
};

// With a model a slot holds the largest of its experts: as many slots as asked for, else as many as the memory holds,
// else one per expert within 80 % of what is available. Without one both numbers are needed.
// out_of_memory or invalid_request with the numbers and the flags.
[[nodiscard]] result<arena_size> plan_arena(const arena_wishes& wishes, const model::description* model,
                                            const compute::device& on);

// "512M", "1.5GiB", "40g", "1048576": bytes, in powers of 1024. nullopt: none of these, or above 64 bits.
[[nodiscard]] std::optional<std::uint64_t> parse_bytes(std::string_view text);

}  // namespace troupe::expert
