// bf16 products with the processor's tile unit (Intel AMX), straight from the k_pairs panels. oneDNN 2.6.3 has AMX
// products too; these were faster at every row count that was measured (README), because few rows are bound by reading
// the panels once, in order.
#pragma once

#include "compute/product.hpp"

namespace troupe::compute {

// Has the processor bf16 tiles, and does the system let this process use them? Asks the system for leave.
[[nodiscard]] bool amx_is_usable();

// @pre amx_is_usable(); product of type bf16 over k_pairs panels; rows of a are `a_stride` elements apart
void amx_multiply(const product& p, std::uint32_t a_stride);

}  // namespace troupe::compute
