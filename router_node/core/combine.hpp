// The arithmetic of combining: f32 sums over partial rows, and back to the request's dtype. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/tensor.hpp"

namespace troupe::router {

// sum[i] += row[i] for `hidden` elements; `type` is f32, bf16 or f16. The row need not be aligned.
void add_row(std::span<float> sum, const std::byte* row, dtype type);

// Copies rows `chosen` of a [T, H] matrix with `row_bytes` per row, one behind the other.
void gather_rows(const std::byte* matrix, std::size_t row_bytes, std::span<const std::uint32_t> chosen,
                 std::byte* target);

// Position of the first value that is NaN or infinite, or count. `type` is f32, f16 or bf16; need not be aligned.
[[nodiscard]] std::size_t find_non_finite(const std::byte* values, std::size_t count, dtype type);

}  // namespace troupe::router
