#include "compute/elementwise.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "compute/reference_math.hpp"

namespace troupe::compute {
namespace {

using model::activation;

TEST(elementwise, activations_are_within_a_few_units_of_f64) {
  for (auto act :
       {activation::swiglu, activation::clamped_glu, activation::relu, activation::gelu_erf, activation::gelu_tanh}) {
    std::vector<float> gate;
    for (double x = -120; x <= 120; x += 0.0371) gate.push_back(static_cast<float>(x));
    std::vector<float> up(gate.size());
    for (std::size_t i = 0; i < up.size(); ++i) up[i] = static_cast<float>(std::sin(static_cast<double>(i))) * 9;
    std::vector<float> result = gate;
    activate(act, result.data(), model::is_gated(act) ? up.data() : nullptr, nullptr, nullptr, gate.size());
    for (std::size_t i = 0; i < gate.size(); ++i) {
      double expected = reference_activation(act, gate[i], up[i]);
      EXPECT_NEAR(result[i], expected, 1e-6 * std::abs(expected) + 2e-7) << gate[i] << ", " << up[i];
    }
  }
}

TEST(elementwise, biases_are_added_before_the_activation) {
  for (auto act : {activation::swiglu, activation::relu, activation::gelu_erf, activation::gelu_tanh}) {
    std::vector<float> gate{-1, 0, 1, 2, 3};
    std::vector<float> up{2, 2, 2, 2, 2};
    std::vector<float> gate_bias{0.5, 0.25, -0.5, 1, -4};
    std::vector<float> up_bias{1, 0, -1, 3, 0.5};
    auto result = gate;
    activate(act, result.data(), up.data(), gate_bias.data(), up_bias.data(), 5);
    for (std::size_t i = 0; i < 5; ++i) {
      EXPECT_NEAR(result[i], reference_activation(act, gate[i] + gate_bias[i], up[i] + up_bias[i]), 2e-6);
    }
  }
}

TEST(elementwise, bf16_conversions_equal_the_plain_ones) {
  std::vector<float> values;
  for (std::uint32_t high = 0; high <= 0xffff; ++high) {
    for (std::uint32_t low : {0x0000U, 0x7fffU, 0x8000U, 0x8001U})
      values.push_back(std::bit_cast<float>(high << 16 | low));
  }
  std::vector<std::uint16_t> narrow(values.size());
  narrow_to_bf16(values.data(), values.size(), reinterpret_cast<std::byte*>(narrow.data()));
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_EQ(narrow[i], f32_to_bf16(values[i])) << i;
  std::vector<float> wide(narrow.size());
  widen_bf16(reinterpret_cast<const std::byte*>(narrow.data()), narrow.size(), wide.data());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[i]), std::uint32_t{narrow[i]} << 16);
  }
}

TEST(elementwise, add_weighted_adds_and_measures) {
  for (std::size_t count : {1U, 15U, 16U, 53U}) {
    std::vector<float> sum(count, 1.0F);
    std::vector<float> value(count, 3.0F);
    std::vector<float> bias(count, 1.0F);
    EXPECT_EQ(add_weighted(sum.data(), value.data(), bias.data(), 0.5F, count), 16.0F * static_cast<float>(count));
    for (float s : sum) EXPECT_EQ(s, 3.0F);
    EXPECT_EQ(add_weighted(sum.data(), value.data(), nullptr, -1.0F, count), 9.0F * static_cast<float>(count));
    for (float s : sum) EXPECT_EQ(s, 0.0F);
  }
}

}  // namespace
}  // namespace troupe::compute
