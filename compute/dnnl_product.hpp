// Products by oneDNN, on one thread: no pool is forked, whatever OMP_NUM_THREADS says. Generated code is kept in one
// bounded cache per process.
#pragma once

#include <cstdint>

#include "compute/product.hpp"

namespace troupe::compute {

// What oneDNN may use here, lowered by ONEDNN_MAX_CPU_ISA.
struct dnnl_abilities {
  bool avx512{};       // f32 from k_major panels
  bool avx512_bf16{};  // bf16 from k_pairs panels
  bool amx{};          // our tile kernel is allowed, too
};
[[nodiscard]] dnnl_abilities probe_dnnl();
[[nodiscard]] std::string dnnl_version_text();

// @pre type f32 with form k_major (avx512) or rows; type bf16 with form k_pairs (avx512_bf16). Throws dnnl::error.
void dnnl_multiply(const product& p, dtype type, panel_form form);

}  // namespace troupe::compute
