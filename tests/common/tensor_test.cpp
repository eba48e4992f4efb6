#include "common/tensor.hpp"

#include <array>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace troupe {
namespace {

TEST(tensor, every_f16_value_survives_a_round_trip) {
  for (std::uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    auto narrow = static_cast<std::uint16_t>(bits);
    float wide = f16_to_f32(narrow);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(wide))));
    } else {
      EXPECT_EQ(f32_to_f16(wide), narrow) << bits;
    }
  }
}

TEST(tensor, f32_to_f16_rounds_to_nearest_even) {
  EXPECT_EQ(f32_to_f16(65504.0F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65519.9F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(f32_to_f16(1.0F + 0x1p-11F), 0x3c00);             // tie, to even
  EXPECT_EQ(f32_to_f16(1.0F + 0x1p-10F + 0x1p-11F), 0x3c02);  // tie, to even
  EXPECT_EQ(f32_to_f16(0x1p-25F), 0x0000);
  EXPECT_EQ(f32_to_f16(0x1.8p-24F), 0x0002);
}

TEST(tensor, f32_to_bf16_rounds_to_nearest_even_and_keeps_nan) {
  EXPECT_EQ(f32_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1p-8F), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1p-7F + 0x1p-8F), 0x3f82);
  EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(bf16_to_f32(f32_to_bf16(std::numeric_limits<float>::max()))));
}

TEST(tensor, checked_bytes_names_the_overflow) {
  std::array<std::uint64_t, 2> fine{3, 5};
  EXPECT_EQ(checked_bytes(dtype::bf16, fine).value(), 30U);
  std::array<std::uint64_t, 2> huge{1ULL << 40, 1ULL << 40};
  auto failed = checked_bytes(dtype::f32, huge);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, errc::invalid_request);
  EXPECT_NE(failed.error().message.find("1099511627776"), std::string::npos);
  std::array<std::uint64_t, 3> zero{1ULL << 40, 0, 1ULL << 40};
  EXPECT_EQ(checked_bytes(dtype::f32, zero).value(), 0U);
}

}  // namespace
}  // namespace troupe
