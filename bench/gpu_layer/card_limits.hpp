// What one card can do at most, measured: the two limits that a layer is compared with.
#pragma once

#include <cstdint>

#include "common/error.hpp"

namespace troupe::bench {

struct card_limits {
  double bytes_per_second{};       // read plus written, by a copy from the card's memory to itself
  double operations_per_second{};  // of one product of 8,192 x 8,192 x 8,192 in bf16 with f32 sums
};

// Median of 20 each; takes a second and 2 GiB of the card's memory, or half of what is free.
[[nodiscard]] result<card_limits> measure_card(std::uint32_t index);

}  // namespace troupe::bench
