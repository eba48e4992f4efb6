#include "compute/elementwise.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/instruction_set.hpp"

// Each loop is written once as an inline body and compiled three times by wrappers with different targets; the compiler
// makes vector code of it. No library function is called inside, so nothing compiled for AVX-512 leaks into other code.
#define TROUPE_BODY inline __attribute__((always_inline))
#define TROUPE_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
#define TROUPE_AVX2 __attribute__((target("avx2,fma")))

namespace troupe::compute {
namespace {

TROUPE_BODY float exp_body(float x) {
  // x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial, 2^n by the exponent's bits. Within 2 units in the last
  // place on the whole range; past its ends the result is the smallest or largest power of two that is normal.
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  constexpr float round_to_integer = 12582912.0F;  // 1.5 * 2^23: adding it drops the fraction
  float shifted = x * 1.44269504F + round_to_integer;
  float n = shifted - round_to_integer;
  float r = x - n * 0.693359375F + n * 2.12194440e-4F;
  float p = 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * r * r + r + 1.0F;
  auto exponent = (std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(round_to_integer) + 127) << 23;
  return p * std::bit_cast<float>(exponent);
}

TROUPE_BODY float sigmoid_body(float x) { return 1.0F / (1.0F + exp_body(-x)); }

struct swiglu_of {
  static constexpr bool gated = true;
  static TROUPE_BODY float apply(float g, float u) { return g * sigmoid_body(g) * u; }
};

struct clamped_glu_of {
  static constexpr bool gated = true;
  static TROUPE_BODY float apply(float g, float u) {
    g = g > 7.0F ? 7.0F : g;
    u = u > 7.0F ? 7.0F : u;
    u = u < -7.0F ? -7.0F : u;
    return (u + 1.0F) * g * sigmoid_body(1.702F * g);
  }
};

struct relu_of {
  static constexpr bool gated = false;
  static TROUPE_BODY float apply(float g) { return g < 0.0F ? 0.0F : g; }
};

struct gelu_tanh_of {
  static constexpr bool gated = false;
  // 0.5 x (1 + tanh(y)) = x sigmoid(2 y), which does not cancel.
  static TROUPE_BODY float apply(float g) {
    constexpr float two_root_two_over_pi = 1.59576912F;
    return g * sigmoid_body(two_root_two_over_pi * (g + 0.044715F * g * g * g));
  }
};

template <class Act>
TROUPE_BODY void activate_body(float* __restrict gate, const float* __restrict up, const float* __restrict gate_bias,
                               const float* __restrict up_bias, std::size_t count) {
  if constexpr (Act::gated) {
    if (gate_bias == nullptr) {
      for (std::size_t i = 0; i < count; ++i) gate[i] = Act::apply(gate[i], up[i]);
    } else {
      for (std::size_t i = 0; i < count; ++i) gate[i] = Act::apply(gate[i] + gate_bias[i], up[i] + up_bias[i]);
    }
  } else if (gate_bias == nullptr) {
    for (std::size_t i = 0; i < count; ++i) gate[i] = Act::apply(gate[i]);
  } else {
    for (std::size_t i = 0; i < count; ++i) gate[i] = Act::apply(gate[i] + gate_bias[i]);
  }
}

TROUPE_BODY void activate_any(model::activation act, float* gate, const float* up, const float* gate_bias,
                              const float* up_bias, std::size_t count) {
  switch (act) {
    case model::activation::swiglu:
      return activate_body<swiglu_of>(gate, up, gate_bias, up_bias, count);
    case model::activation::clamped_glu:
      return activate_body<clamped_glu_of>(gate, up, gate_bias, up_bias, count);
    case model::activation::relu:
      return activate_body<relu_of>(gate, up, gate_bias, up_bias, count);
    case model::activation::gelu_tanh:
      return activate_body<gelu_tanh_of>(gate, up, gate_bias, up_bias, count);
    case model::activation::gelu_erf:
      return;  // not here: it calls a library function
  }
}

TROUPE_BODY float add_weighted_body(float* __restrict sum, const float* __restrict value, const float* __restrict bias,
                                    float weight, std::size_t count) {
  // Sixteen sums side by side: the compiler may not reorder one.
  constexpr std::size_t lanes = 16;
  float squares[lanes] = {};
  std::size_t whole = count / lanes * lanes;
  for (std::size_t i = 0; i < whole; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      float y = value[i + lane] + (bias != nullptr ? bias[i + lane] : 0.0F);
      squares[lane] += y * y;
      sum[i + lane] += weight * y;
    }
  }
  float total = 0;
  for (std::size_t i = whole; i < count; ++i) {
    float y = value[i] + (bias != nullptr ? bias[i] : 0.0F);
    total += y * y;
    sum[i] += weight * y;
  }
  for (float part : squares) total += part;
  return total;
}

TROUPE_BODY void widen_body(const std::byte* __restrict source, std::size_t count, float* __restrict target) {
  for (std::size_t i = 0; i < count; ++i) {
    std::uint16_t bits;
    __builtin_memcpy(&bits, source + 2 * i, 2);
    target[i] = std::bit_cast<float>(std::uint32_t{bits} << 16);
  }
}

TROUPE_BODY void narrow_body(const float* __restrict source, std::size_t count, std::byte* __restrict target) {
  for (std::size_t i = 0; i < count; ++i) {
    auto bits = std::bit_cast<std::uint32_t>(source[i]);
    std::uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
    std::uint32_t quiet = bits >> 16 | 0x40U;
    auto narrow = static_cast<std::uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
    __builtin_memcpy(target + 2 * i, &narrow, 2);
  }
}

TROUPE_BODY void add_body(float* __restrict sum, const float* __restrict value, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) sum[i] += value[i];
}

TROUPE_BODY float mean_square_body(const float* x, std::size_t count) {
  constexpr std::size_t lanes = 64;  // four vectors side by side
  float squares[lanes] = {};
  std::size_t whole = count / lanes * lanes;
  for (std::size_t i = 0; i < whole; i += lanes) {
    for (std::size_t lane = 0; lane < lanes; ++lane) squares[lane] += x[i + lane] * x[i + lane];
  }
  float total = 0;
  for (std::size_t i = whole; i < count; ++i) total += x[i] * x[i];
  for (float part : squares) total += part;
  return total / static_cast<float>(count);
}

TROUPE_BODY void rms_norm_body(const float* x, const float* __restrict weight, float epsilon, std::size_t count,
                               float* y) {
  float factor = 1.0F / __builtin_sqrtf(mean_square_body(x, count) + epsilon);
  for (std::size_t i = 0; i < count; ++i) y[i] = x[i] * factor * weight[i];
}

TROUPE_BODY void rotate_body(float* __restrict head, const float* __restrict cosines, const float* __restrict sines,
                             std::size_t half) {
  float* __restrict upper = head + half;
  for (std::size_t i = 0; i < half; ++i) {
    float low = head[i];
    float high = upper[i];
    head[i] = low * cosines[i] - high * sines[i];
    upper[i] = high * cosines[i] + low * sines[i];
  }
}

// clang-format off
#define TROUPE_VARIANT(SUFFIX, TARGET)                                                                                 \
  TARGET void activate_##SUFFIX(model::activation act, float* gate, const float* up, const float* gate_bias,          \
                                const float* up_bias, std::size_t count) {                                            \
    activate_any(act, gate, up, gate_bias, up_bias, count);                                                           \
  }                                                                                                                    \
  TARGET float add_weighted_##SUFFIX(float* sum, const float* value, const float* bias, float weight,                 \
                                     std::size_t count) {                                                             \
    return add_weighted_body(sum, value, bias, weight, count);                                                        \
  }                                                                                                                    \
  TARGET void widen_##SUFFIX(const std::byte* source, std::size_t count, float* target) {                             \
    widen_body(source, count, target);                                                                                \
  }                                                                                                                    \
  TARGET void narrow_##SUFFIX(const float* source, std::size_t count, std::byte* target) {                            \
    narrow_body(source, count, target);                                                                               \
  }                                                                                                                    \
  TARGET void add_##SUFFIX(float* sum, const float* value, std::size_t count) { add_body(sum, value, count); }        \
  TARGET void rms_norm_##SUFFIX(const float* x, const float* weight, float epsilon, std::size_t count, float* y) {    \
    rms_norm_body(x, weight, epsilon, count, y);                                                                      \
  }                                                                                                                    \
  TARGET void rotate_##SUFFIX(float* head, const float* cosines, const float* sines, std::size_t half) {              \
    rotate_body(head, cosines, sines, half);                                                                          \
  }
// clang-format on
TROUPE_VARIANT(avx512, TROUPE_AVX512)
TROUPE_VARIANT(avx2, TROUPE_AVX2)
TROUPE_VARIANT(plain, )
#undef TROUPE_VARIANT

struct variant {
  decltype(&activate_plain) activate;
  decltype(&add_weighted_plain) add_weighted;
  decltype(&widen_plain) widen;
  decltype(&narrow_plain) narrow;
  decltype(&add_plain) add;
  decltype(&rms_norm_plain) rms_norm;
  decltype(&rotate_plain) rotate;
};

const variant& chosen() {
  static const variant best = [] {
    __builtin_cpu_init();
    if (has_avx512()) {
      return variant{activate_avx512, add_weighted_avx512, widen_avx512, narrow_avx512,
                     add_avx512,      rms_norm_avx512,     rotate_avx512};
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
      return variant{activate_avx2, add_weighted_avx2, widen_avx2, narrow_avx2, add_avx2, rms_norm_avx2, rotate_avx2};
    }
    return variant{activate_plain, add_weighted_plain, widen_plain, narrow_plain,
                   add_plain,      rms_norm_plain,     rotate_plain};
  }();
  return best;
}

void activate_gelu_erf(float* gate, const float* bias, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    float x = gate[i] + (bias != nullptr ? bias[i] : 0.0F);
    gate[i] = 0.5F * x * std::erfc(-0.70710678F * x);
  }
}

}  // namespace

void widen_bf16(const std::byte* source, std::size_t count, float* target) { chosen().widen(source, count, target); }

void narrow_to_bf16(const float* source, std::size_t count, std::byte* target) {
  chosen().narrow(source, count, target);
}

void activate(model::activation act, float* gate, const float* up, const float* gate_bias, const float* up_bias,
              std::size_t count) {
  if (act == model::activation::gelu_erf) return activate_gelu_erf(gate, gate_bias, count);
  chosen().activate(act, gate, up, gate_bias, up_bias, count);
}

float add_weighted(float* sum, const float* value, const float* bias, float weight, std::size_t count) {
  return chosen().add_weighted(sum, value, bias, weight, count);
}

void add(float* sum, const float* value, std::size_t count) { chosen().add(sum, value, count); }

void rms_norm(const float* x, const float* weight, float epsilon, std::size_t count, float* y) {
  chosen().rms_norm(x, weight, epsilon, count, y);
}

void rotate_pairs(float* head, const float* cosines, const float* sines, std::size_t half) {
  chosen().rotate(head, cosines, sines, half);
}

}  // namespace troupe::compute
