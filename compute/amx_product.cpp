#include "compute/amx_product.hpp"

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <type_traits>

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

// Memory delivers in time only when it is asked early. What one multiplication asks for while it computes:
enum class asks : std::uint8_t {
  nothing,
  stream,  // its own panel, a little ahead of itself: for the first rows that meet a panel
  next,    // its share of the panel that comes after this one
};

struct block {
  const std::byte* a;
  std::size_t a_stride;  // bytes
  const std::byte* panel;
  std::size_t panel_stride;  // bytes of one pair of inputs over the panel
  std::uint32_t steps;       // inputs / 32
  std::byte* c;
  std::size_t c_stride;         // bytes
  const std::byte* next;        // asks::next: where this block's share of the next panel begins
  std::uint32_t next_per_step;  // bytes of it
  const std::byte* stream_end;  // asks::stream: the panel's end ...
  const std::byte* after;       // ... and what follows it; nullptr: unknown
};

constexpr std::size_t tile_row_bytes = 64;  // of a, of a panel and of sums alike
constexpr std::size_t cache_line_bytes = 64;
constexpr std::size_t stream_ahead_bytes = 8192;  // two steps of a full panel; found by measuring 4 to 16 KB

template <asks Asks>
inline __attribute__((always_inline)) void ask(const block& b, const std::byte* panel, std::uint32_t step) {
  if constexpr (Asks == asks::stream) {
    const std::byte* begin = panel + stream_ahead_bytes;
    if (begin >= b.stream_end) {
      if (b.after == nullptr) return;
      begin = b.after + (begin - b.stream_end);
    }
    std::size_t bytes = tile_rows * b.panel_stride;
    for (std::size_t at = 0; at < bytes; at += cache_line_bytes) __builtin_prefetch(begin + at, 0, 3);
  }
  if constexpr (Asks == asks::next) {
    const std::byte* begin = b.next + std::size_t{step} * b.next_per_step;
    for (std::uint32_t at = 0; at < b.next_per_step; at += cache_line_bytes) __builtin_prefetch(begin + at, 0, 2);
  }
}

// Up to 16 rows x 16 * Tiles outputs: reads the panel once, in order.
template <int Tiles, asks Asks>
TROUPE_TILES void multiply_few(const block& b) {
  _tile_zero(0);
  if constexpr (Tiles > 1) _tile_zero(1);
  if constexpr (Tiles > 2) _tile_zero(2);
  if constexpr (Tiles > 3) _tile_zero(3);
  const std::byte* panel = b.panel;
  const std::byte* a = b.a;
  for (std::uint32_t k = 0; k < b.steps; ++k) {
    ask<Asks>(b, panel, k);
    _tile_loadd(4, a, b.a_stride);
    _tile_loadd(6, panel, b.panel_stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Tiles > 1) {
      _tile_loadd(7, panel + tile_row_bytes, b.panel_stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Tiles > 2) {
      _tile_loadd(6, panel + 2 * tile_row_bytes, b.panel_stride);
      _tile_dpbf16ps(2, 4, 6);
    }
    if constexpr (Tiles > 3) {
      _tile_loadd(7, panel + 3 * tile_row_bytes, b.panel_stride);
      _tile_dpbf16ps(3, 4, 7);
    }
    a += step_inputs * 2;
    panel += tile_rows * b.panel_stride;
  }
  _tile_stored(0, b.c, b.c_stride);
  if constexpr (Tiles > 1) _tile_stored(1, b.c + tile_row_bytes, b.c_stride);
  if constexpr (Tiles > 2) _tile_stored(2, b.c + 2 * tile_row_bytes, b.c_stride);
  if constexpr (Tiles > 3) _tile_stored(3, b.c + 3 * tile_row_bytes, b.c_stride);
}

// 17 to 32 rows x 16 * Tiles outputs (Tiles 1 or 2): each tile that is loaded serves two multiplications.
template <int Tiles, asks Asks>
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
    ask<Asks>(b, panel, k);
    _tile_loadd(6, panel, b.panel_stride);
    _tile_loadd(4, upper, b.a_stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, lower, b.a_stride);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (Tiles > 1) {
      _tile_loadd(7, panel + tile_row_bytes, b.panel_stride);
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
    _tile_stored(1, b.c + tile_row_bytes, b.c_stride);
    _tile_stored(3, c_lower + tile_row_bytes, b.c_stride);
  }
}

TROUPE_TILES void load_config(const tile_config& config) {
  // GCC believes that the instruction reads 8 bytes and would drop the stores of the other 56.
  __asm__ volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}
TROUPE_TILES void release_tiles() { _tile_release(); }

template <asks Asks>
void multiply_up_to_16(const block& b, std::uint32_t width) {
  switch (width / tile_outputs) {
    case 1:
      return multiply_few<1, Asks>(b);
    case 2:
      return multiply_few<2, Asks>(b);
    case 3:
      return multiply_few<3, Asks>(b);
    default:
      return multiply_few<4, Asks>(b);
  }
}

template <asks Asks>
void multiply_up_to_32(const block& b, std::uint32_t width) {
  width > tile_outputs ? multiply_many<2, Asks>(b) : multiply_many<1, Asks>(b);
}

template <class Call>
void with(asks wanted, Call call) {
  switch (wanted) {
    case asks::nothing:
      return call(std::integral_constant<asks, asks::nothing>{});
    case asks::stream:
      return call(std::integral_constant<asks, asks::stream>{});
    case asks::next:
      return call(std::integral_constant<asks, asks::next>{});
  }
}

// All rows with one panel: blocks of 32 rows x 32 outputs, then the rows that remain.
class panel_product {
 public:
  panel_product(const product& p, std::uint32_t a_stride)
      : p_(p),
        a_stride_(std::size_t{a_stride} * 2),
        c_stride_(std::size_t{p.panel_count} * p.width * sizeof(float)),
        panel_bytes_(std::size_t{p.width} * p.inputs * 2),
        full_rows_(p.rows / (2 * tile_rows) * (2 * tile_rows)),
        rest_(p.rows - full_rows_) {}

  void run(std::uint32_t panel) {
    panel_ = p_.panels + panel * panel_bytes_;
    c_ = reinterpret_cast<std::byte*>(p_.c) + panel * p_.width * sizeof(float);
    next_ = panel + 1 < p_.panel_count ? panel_ + panel_bytes_ : p_.next;
    fresh_ = panel == 0 && !p_.asked;
    std::uint32_t halves = (p_.width + 2 * tile_outputs - 1) / (2 * tile_outputs);
    bool few = rest_ != 0 && rest_ <= tile_rows;
    std::uint32_t blocks = full_rows_ / (2 * tile_rows) * halves + (rest_ == 0 ? 0 : few ? 1 : halves);
    share_out(blocks - (fresh_ ? 1 : 0));
    if (full_rows_ != 0) {
      load_config(config_for(tile_rows, tile_rows));
      multiply_rows(0, full_rows_);
    }
    if (rest_ == 0) return;
    if (few) {
      load_config(config_for(rest_, rest_));
      // Few rows alone wait for memory whatever they do: they stream every panel.
      asks wanted = full_rows_ == 0 ? asks::stream : next_ask();
      block b = block_at(full_rows_, 0);
      with(wanted, [&](auto constant) { multiply_up_to_16<constant()>(b, p_.width); });
    } else {
      load_config(config_for(tile_rows, rest_ - tile_rows));
      multiply_rows(full_rows_, p_.rows);
    }
  }

 private:
  // 32 outputs of the panel stay in the cache while all rows pass.
  void multiply_rows(std::uint32_t begin, std::uint32_t end) {
    for (std::uint32_t output = 0; output < p_.width; output += 2 * tile_outputs) {
      for (std::uint32_t row = begin; row < end; row += 2 * tile_rows) {
        asks wanted = next_ask();
        block b = block_at(row, output);
        with(wanted, [&](auto constant) { multiply_up_to_32<constant()>(b, p_.width - output); });
      }
    }
  }

  [[nodiscard]] block block_at(std::uint32_t row, std::uint32_t output) const {
    return {.a = p_.a + row * a_stride_,
            .a_stride = a_stride_,
            .panel = panel_ + output * 4,
            .panel_stride = std::size_t{p_.width} * 4,
            .steps = p_.inputs / step_inputs,
            .c = c_ + row * c_stride_ + output * sizeof(float),
            .c_stride = c_stride_,
            .next = share_,
            .next_per_step = share_per_step_,
            .stream_end = panel_ + panel_bytes_,
            .after = full_rows_ == 0 && rest_ <= tile_rows ? next_ : nullptr};
  }

  void share_out(std::uint32_t blocks) {
    std::size_t steps = std::size_t{blocks} * (p_.inputs / step_inputs);
    bool none = next_ == nullptr || steps == 0;
    std::size_t lines = none ? 0 : (panel_bytes_ / cache_line_bytes + steps - 1) / steps;
    share_per_step_ = static_cast<std::uint32_t>(lines * cache_line_bytes);
    share_begin_ = next_;
    share_ = share_begin_;
    shares_taken_ = 0;
  }

  // What the next block asks for; moves on to its share.
  asks next_ask() {
    if (fresh_) {
      fresh_ = false;
      return asks::stream;
    }
    if (share_per_step_ == 0) return asks::nothing;
    share_ = share_begin_ + std::size_t{shares_taken_++} * share_per_step_ * (p_.inputs / step_inputs);
    return asks::next;
  }

  const product& p_;
  std::size_t a_stride_;
  std::size_t c_stride_;
  std::size_t panel_bytes_;
  std::uint32_t full_rows_;
  std::uint32_t rest_;

  // Of the current panel.
  const std::byte* panel_{};
  std::byte* c_{};
  const std::byte* next_{};
  bool fresh_{};
  const std::byte* share_begin_{};
  const std::byte* share_{};
  std::uint32_t share_per_step_{};
  std::uint32_t shares_taken_{};
};

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

void amx_multiply(const product& p, std::uint32_t a_stride) {
  panel_product work(p, a_stride);
  for (std::uint32_t panel = 0; panel < p.panel_count; ++panel) work.run(panel);
  release_tiles();
}

}  // namespace troupe::compute
