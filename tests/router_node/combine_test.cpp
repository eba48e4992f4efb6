#include "router_node/core/combine.hpp"

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::router {
namespace {

using ::testing::ElementsAre;

std::vector<std::byte> encode(const std::vector<float>& values, dtype type, std::size_t shift) {
  std::vector<std::byte> bytes(shift + values.size() * bytes_per_element(type));
  std::vector<std::byte> source(values.size() * sizeof(float));
  std::memcpy(source.data(), values.data(), source.size());
  std::vector<std::byte> encoded(values.size() * bytes_per_element(type));
  convert(dtype::f32, source.data(), type, encoded.data(), values.size());
  std::memcpy(bytes.data() + shift, encoded.data(), encoded.size());
  return bytes;
}

class combining : public ::testing::TestWithParam<dtype> {};

TEST_P(combining, adds_unaligned_rows) {
  std::array<float, 3> sum{1, 2, 3};
  const auto bytes = encode({0.5F, -2, 4}, GetParam(), 1);
  add_row(sum, bytes.data() + 1, GetParam());
  EXPECT_THAT(sum, ElementsAre(1.5F, 0, 7));
}

TEST_P(combining, w9_finds_the_first_value_that_is_not_finite) {
  for (const std::size_t count : {1U, 1023U, 1024U, 3000U}) {
    std::vector<float> values(count, -65000.0F);
    auto bytes = encode(values, GetParam(), 1);
    EXPECT_EQ(find_non_finite(bytes.data() + 1, count, GetParam()), count);
    values[count - 1] = std::numeric_limits<float>::quiet_NaN();
    bytes = encode(values, GetParam(), 1);
    EXPECT_EQ(find_non_finite(bytes.data() + 1, count, GetParam()), count - 1);
    values[count / 2] = -std::numeric_limits<float>::infinity();
    bytes = encode(values, GetParam(), 1);
    EXPECT_EQ(find_non_finite(bytes.data() + 1, count, GetParam()), count / 2);
  }
}

INSTANTIATE_TEST_SUITE_P(types, combining, ::testing::Values(dtype::f32, dtype::bf16, dtype::f16));

TEST(gathering, copies_rows_in_the_given_order) {
  const std::array<std::byte, 6> matrix{std::byte{0}, std::byte{1}, std::byte{2},
                                        std::byte{3}, std::byte{4}, std::byte{5}};
  std::array<std::byte, 4> target{};
  gather_rows(matrix.data(), 2, std::vector<std::uint32_t>{2, 0}, target.data());
  EXPECT_THAT(target, ElementsAre(std::byte{4}, std::byte{5}, std::byte{0}, std::byte{1}));
}

}  // namespace
}  // namespace troupe::router
