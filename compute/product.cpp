#include "compute/product.hpp"

#include <array>
#include <cassert>
#include <cstring>
#include <vector>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/amx_product.hpp"
#include "compute/dnnl_product.hpp"
#include "compute/elementwise.hpp"
#include "compute/few_rows_product.hpp"

namespace troupe::compute {
namespace {

constexpr std::array<std::uint32_t, 17> row_steps{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 80, 96, 128, 192, 256};
static_assert(row_steps.back() == limits::rows_per_product_max);

class dnnl_kernel final : public product_kernel {
 public:
  dnnl_kernel(dtype type, panel_form form) : type_(type), form_(form) {}
  dtype type() const override { return type_; }
  panel_form form() const override { return form_; }
  std::string name() const override { return fmt::format("oneDNN {}", type_ == dtype::bf16 ? "bf16" : "f32"); }
  // Without gaps: with them oneDNN falls back to code that is a hundred times slower.
  std::uint32_t row_stride(std::uint32_t inputs) const override { return inputs; }
  void multiply(const product& p) const override {
    if (type_ == dtype::bf16 && p.rows <= few_rows_max) return few_rows_multiply(p, p.inputs);
    dnnl_multiply(p, type_, form_);
  }

 private:
  dtype type_;
  panel_form form_;
};

class amx_kernel final : public product_kernel {
 public:
  dtype type() const override { return dtype::bf16; }
  panel_form form() const override { return panel_form::k_pairs; }
  std::string name() const override { return "AMX bf16 tiles"; }
  // 16 rows of a are read side by side: a gap of one cache line keeps them from falling on the same few cache places.
  std::uint32_t row_stride(std::uint32_t inputs) const override { return inputs + 32; }
  // Tiles even for one row: they are as fast as memory, and a row then has the same bits among any number of others.
  void multiply(const product& p) const override { amx_multiply(p, row_stride(p.inputs)); }
};

// bf16 rows and panels on a processor without bf16 instructions: one panel at a time is widened to f32 (exact) and
// multiplied as such. Memory traffic stays that of bf16.
class widening_kernel final : public product_kernel {
 public:
  explicit widening_kernel(panel_form form) : form_(form) {}
  dtype type() const override { return dtype::bf16; }
  panel_form form() const override { return form_; }
  std::string name() const override { return "bf16 widened to f32 (this processor has no bf16 instructions)"; }
  std::uint32_t row_stride(std::uint32_t inputs) const override { return inputs; }

  void multiply(const product& p) const override {
    thread_local std::vector<float> a;
    thread_local std::vector<float> panel;
    thread_local std::vector<float> c;
    std::size_t rows = padded_rows(p.rows);
    std::size_t panel_elements = std::size_t{p.width} * p.inputs;
    if (a.size() < rows * p.inputs) a.resize(rows * p.inputs);
    if (panel.size() < panel_elements) panel.resize(panel_elements);
    if (c.size() < rows * p.width) c.resize(rows * p.width);
    widen_bf16(p.a, std::size_t{p.rows} * p.inputs, a.data());
    product one = p;
    one.a = reinterpret_cast<const std::byte*>(a.data());
    one.panels = reinterpret_cast<const std::byte*>(panel.data());
    one.panel_count = 1;
    one.c = c.data();
    for (std::uint32_t i = 0; i < p.panel_count; ++i) {
      widen_bf16(p.panels + i * panel_elements * 2, panel_elements, panel.data());
      dnnl_multiply(one, dtype::f32, form_);
      for (std::size_t r = 0; r < p.rows; ++r) {
        std::memcpy(p.c + (r * p.panel_count + i) * p.width, c.data() + r * p.width, p.width * sizeof(float));
      }
    }
  }

 private:
  panel_form form_;
};

struct processor_path {
  dnnl_abilities abilities;
  bool amx;
};

const processor_path& this_processor() {
  static const processor_path path = [] {
    auto abilities = probe_dnnl();
    return processor_path{.abilities = abilities, .amx = abilities.amx && amx_is_usable()};
  }();
  return path;
}

}  // namespace

std::uint32_t padded_rows(std::uint32_t rows) {
  assert(rows >= 1 && rows <= limits::rows_per_product_max);
  for (auto step : row_steps) {
    if (rows <= step) return step;
  }
  return rows;
}

result<std::shared_ptr<const product_kernel>> make_product_kernel(dtype type) {
  const auto& path = this_processor();
  auto f32_form = path.abilities.avx512 ? panel_form::k_major : panel_form::rows;
  if (type == dtype::f32) return std::make_shared<const dnnl_kernel>(dtype::f32, f32_form);
  if (type != dtype::bf16) {
    return fail(
        errc::invalid_request,
        fmt::format("the cpu device computes in f32 or bf16, not in {}; use --dtype f32 or bf16", to_string(type)));
  }
  if (path.amx) return std::make_shared<const amx_kernel>();
  if (path.abilities.avx512_bf16) return std::make_shared<const dnnl_kernel>(dtype::bf16, panel_form::k_pairs);
  return std::make_shared<const widening_kernel>(f32_form);
}

std::string describe_processor_path() {
  const auto& path = this_processor();
  const char* isa = path.amx                     ? "AMX"
                    : path.abilities.avx512_bf16 ? "AVX-512 with bf16"
                    : path.abilities.avx512      ? "AVX-512"
                                                 : "no AVX-512";
  return fmt::format("{}, {}", dnnl_version_text(), isa);
}

}  // namespace troupe::compute
