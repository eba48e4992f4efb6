// bf16 products of one to four rows with AVX-512's bf16 instructions: as fast as memory delivers the panels, which
// neither tiles nor oneDNN reach with so few rows.
#pragma once

#include "compute/product.hpp"

namespace troupe::compute {

inline constexpr std::uint32_t few_rows_max = 4;

// @pre the processor has AVX-512 with bf16; p.rows <= few_rows_max; k_pairs panels; rows of a are `a_stride` elements
// apart
void few_rows_multiply(const product& p, std::uint32_t a_stride);

}  // namespace troupe::compute
