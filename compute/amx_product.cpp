#include "compute/amx_product.hpp"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

// A tile holds 16 rows of 64 bytes. One TDPBF16PS multiplies a tile of a (16 rows x 32 inputs) with a tile of a panel
// (16 pairs of inputs x 16 outputs x 2) and adds to a tile of sums (16 rows x 16 outputs).
#define TROUPE_TILES __attribute__((target("amx-tile,amx-bf16")))

namespace troupe::compute {
namespace {

constexpr std::uint32_t tile_rows = 16;
constexpr std::uint32_t tile_outputs = 16;
constexpr std::uint32_t step_inputs = 32;  // of one tile

// The processor's own format (palette 1): bytes per row and rows of each of the eight tiles.
struct alignas(64) tile_config {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

// Tiles 0-3 are sums, 4 and 5 hold rows of a, 6 and 7 hold panels. `upper`, `lower`: rows of a in tiles 4 and 5.
tile_config config_for(std::uint32_t upper, std::uint32_t lower) {
  tile_config config;
  const std::uint32_t rows[8] = {upper, upper, lower, lower, upper, lower, tile_rows, tile_rows};
  for (int i = 0; i < 8; ++i) {
    config.rows[i] = static_cast<std::uint8_t>(rows[i]);
    config.row_bytes[i] = 64;
  }
  return config;
}

struct block {
  const std::byte* a;
  std::size_t a_stride;  // bytes
  const std::byte* panel;
  std::size_t panel_stride;  // bytes of one pair of inputs over the panel
  std::uint32_t steps;       // inputs / 32
  std::byte* c;
  std::size_t c_stride;  // bytes
};

constexpr std::size_t tile_bytes_wide = 64;  // one tile row, of a, of a panel and of sums alike

// Up to 16 rows x 16 * Tiles outputs: reads the panel once, in order.
template <int Tiles>
TROUPE_TILES void multiply_few(const block& b) {
  _tile_zero(0);
  if constexpr (Tiles > 1) _tile_zero(1);
  if constexpr (Tiles > 2) _tile_zero(2);
  if constexpr (Tiles > 3) _tile_zero(3);
  const std::byte* panel = b.panel;
  const std::byte* a = b.a;
  for (std::uint32_t k = 0; k < b.steps; ++k) {
    _tile_loadd(4, a, b.a_stride);
    _tile_loadd(6, panel, b.panel_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Tiles > 1) {
      _tile_loadd(7, panel + tile_bytes_wide, b.panel_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(6, panel + 2 * tile_bytes_wide, b.panel_stride);
      _tile_dpbf16ps(2, 4, 6);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(7, panel + 3 * tile_bytes_wide, b.panel_stride);
      _tile_dpbf16ps(3, 4, 7);
    }
    a += step_inputs * 2;
    panel += tile_rows * b.panel_stride;
  }
  _tile_stored(0, b.c, b.c_stride);
  if constexpr (Tiles > 1) _tile_stored(1, b.c + tile_bytes_wide, b.c_stride);
  if constexpr (Tiles > 2) _tile_stored(2, b.c + 2 * tile_bytes_wide, b.c_stride);
  if constexpr (Tiles > 3) _tile_stored(3, b.c + 3 * tile_bytes_wide, b.c_stride);
}

// 17 to 32 rows x 16 * Tiles outputs (Tiles 1 or 2): each tile that is loaded serves two multiplications.
template <int Tiles>
TROUPE_TILES void multiply_many(const block& b) {
  _tile_zero(0);
  _tile_zero(2);
  if constexpr (Tiles > 1) {
    _tile_zero(1);
    _tile_zero(3);
  }
  const std::byte* panel = b.panel;
  const std::byte* upper = b.a;
  const std::byte* lower = b.a + tile_rows * b.a_stride;
  for (std::uint32_t k = 0; k < b.steps; ++k) {
    _tile_loadd(6, panel, b.panel_stride);
    _tile_loadd(4, upper, b.a_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, lower, b.a_stride);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (Tiles > 1) {
      _tile_loadd(7, panel + tile_bytes_wide, b.panel_stride);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
    upper += step_inputs * 2;
    lower += step_inputs * 2;
    panel += tile_rows * b.panel_stride;
  }
  std::byte* c_lower = b.c + tile_rows * b.c_stride;
  _tile_stored(0, b.c, b.c_stride);
  _tile_stored(2, c_lower, b.c_stride);
  if constexpr (Tiles > 1) {
    _tile_stored(1, b.c + tile_bytes_wide, b.c_stride);
    _tile_stored(3, c_lower + tile_bytes_wide, b.c_stride);
  }
}

TROUPE_TILES void load_config(const tile_config& config) {
  // GCC believes that the instruction reads 8 bytes and would drop the stores of the other 56.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}
TROUPE_TILES void release_tiles() { _tile_release(); }

block block_of(const product& p, std::uint32_t panel) {
  return {.a = p.a,
          .a_stride = std::size_t{p.inputs} * 2,
          .panel = p.panels + std::size_t{panel} * p.width * p.inputs * 2,
          .panel_stride = std::size_t{p.width} * 4,
          .steps = p.inputs / step_inputs,
          .c = reinterpret_cast<std::byte*>(p.c + std::size_t{panel} * p.width),
          .c_stride = std::size_t{p.panel_count} * p.width * sizeof(float)};
}

void multiply_up_to_16(const block& b, std::uint32_t width) {
  switch (width / tile_outputs) {
    case 1:
      return multiply_few<1>(b);
    case 2:
      return multiply_few<2>(b);
    case 3:
      return multiply_few<3>(b);
    default:
      return multiply_few<4>(b);
  }
}

// Rows first, then outputs: 32 outputs of the panel stay in the second cache while all rows pass.
void multiply_by_32(block b, std::uint32_t width, std::uint32_t row_begin, std::uint32_t row_end) {
  const std::byte* a = b.a;
  std::byte* c = b.c;
  for (std::uint32_t done = 0; done < width; done += 2 * tile_outputs) {
    for (std::uint32_t row = row_begin; row < row_end; row += 2 * tile_rows) {
      b.a = a + row * b.a_stride;
      b.c = c + row * b.c_stride + done * sizeof(float);
      if (width - done > tile_outputs) {
        multiply_many<2>(b);
      } else {
        multiply_many<1>(b);
      }
    }
    b.panel += 2 * tile_bytes_wide;
  }
}

}  // namespace

bool amx_is_usable() {
  unsigned eax = 7, ebx = 0, ecx = 0, edx = 0;
  __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr unsigned amx_bf16_bit = 1U << 22;
  constexpr unsigned amx_tile_bit = 1U << 24;
  if ((edx & amx_bf16_bit) == 0 || (edx & amx_tile_bit) == 0) return false;
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

void amx_multiply(const product& p) {
  std::uint32_t full = p.rows / (2 * tile_rows) * (2 * tile_rows);
  std::uint32_t rest = p.rows - full;
  if (full != 0) {
    load_config(config_for(tile_rows, tile_rows));
    for (std::uint32_t panel = 0; panel < p.panel_count; ++panel) multiply_by_32(block_of(p, panel), p.width, 0, full);
  }
  if (rest != 0) {
    bool few = rest <= tile_rows;
    load_config(few ? config_for(rest, rest) : config_for(tile_rows, rest - tile_rows));
    for (std::uint32_t panel = 0; panel < p.panel_count; ++panel) {
      auto b = block_of(p, panel);
      if (few) {
        b.a += full * b.a_stride;
        b.c += full * b.c_stride;
        multiply_up_to_16(b, p.width);
      } else {
        multiply_by_32(b, p.width, full, p.rows);
      }
    }
  }
  release_tiles();
}

}  // namespace troupe::compute
