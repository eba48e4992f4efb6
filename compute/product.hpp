// c = a x W^T over a run of packed panels: the one hot operation of this folder, with one implementation per kind of
// processor. Sums are f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "compute/packing.hpp"

namespace troupe::compute {

// Rows of a lie row_stride(inputs) of the kernel apart, rows of c follow each other without a gap.
// Buffers have room for padded_rows(rows) rows: an implementation may read and write the rows behind the last one,
// whose values mean nothing. Columns of c stand in the panels' order, padding included.
struct product {
  const std::byte* a{};    // [rows, inputs] in the kernel's type; elements behind the real inputs are zero
  std::uint32_t rows{};    // 1 .. limits::rows_per_product_max
  std::uint32_t inputs{};  // padded, as the panels
  const std::byte* panels{};
  std::uint32_t panel_count{};
  std::uint32_t width{};  // of each of these panels
  float* c{};             // [rows, panel_count * width]
  // Hints. What this thread multiplies after these panels, if it is known: a kernel may ask memory for it in time.
  const std::byte* next{};
  bool asked{};  // these panels were `next` of the product before
};

// Rows that buffers of a product with that many rows have. Few different numbers, because oneDNN generates code for
// each.
[[nodiscard]] std::uint32_t padded_rows(std::uint32_t rows);

// Any thread; const calls from many threads at a time are safe, each with its own c.
class product_kernel {
 public:
  virtual ~product_kernel() = default;
  product_kernel(const product_kernel&) = delete;
  product_kernel& operator=(const product_kernel&) = delete;

  [[nodiscard]] virtual dtype type() const = 0;       // of a and of the panels
  [[nodiscard]] virtual panel_form form() const = 0;  // of the panels
  [[nodiscard]] virtual std::string name() const = 0;
  // Elements from one row of a to the next; at least `inputs`.
  [[nodiscard]] virtual std::uint32_t row_stride(std::uint32_t inputs) const = 0;
  // Throws what oneDNN throws.
  virtual void multiply(const product& p) const = 0;

 protected:
  product_kernel() = default;
};

// The fastest kernel of this processor for f32 or bf16. ONEDNN_MAX_CPU_ISA (oneDNN's own variable) lowers what is used,
// our kernels included. invalid_request for another type.
[[nodiscard]] result<std::shared_ptr<const product_kernel>> make_product_kernel(dtype type);

// "oneDNN 2.6.3 on avx512_core_amx"
[[nodiscard]] std::string describe_processor_path();

}  // namespace troupe::compute
