#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "compute/device.hpp"
#include "compute/product.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

struct dense_case {
  std::uint32_t out, in;
  bool bias;
};

double worst_share(const std::vector<float>& weight, const std::vector<float>& bias, const dense_case& c,
                   const std::vector<float>& x, const std::vector<float>& y) {
  double worst = 0;
  double peak = 0;
  for (std::size_t r = 0; r < x.size() / c.in; ++r) {
    for (std::size_t o = 0; o < c.out; ++o) {
      double sum = c.bias ? bias[o] : 0.0;
      for (std::size_t i = 0; i < c.in; ++i) sum += double{weight[o * c.in + i]} * x[r * c.in + i];
      peak = std::max(peak, std::abs(sum));
      worst = std::max(worst, std::abs(sum - y[r * c.out + o]));
    }
  }
  return worst / peak;
}

TEST(dense_product, agrees_with_f64) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    for (auto c : {dense_case{64, 2048, false}, {1, 7, false}, {60, 33, true}, {129, 500, true}}) {
      auto weight = random_values(std::size_t{c.out} * c.in, 1);
      auto bias = c.bias ? random_values(c.out, 2) : std::vector<float>{};
      auto made = dense_product::make(weight, bias, c.out, c.in, type);
      ASSERT_TRUE(made) << made.error().message;
      for (std::uint32_t rows : {1U, 2U, 3U, 63U, 64U, 65U, 150U}) {
        auto x = random_values(std::size_t{rows} * c.in, rows);
        std::vector<float> y(std::size_t{rows} * c.out, NAN);
        made->run(x.data(), rows, y.data());
        EXPECT_LE(worst_share(weight, bias, c, x, y), type == dtype::f32 ? 2e-6 : 2e-2) << rows << " x " << c.out;
      }
    }
  }
}

// What lets a text not depend on the texts that are computed beside it. Tiles promise it; oneDNN does not, but its f32
// sums for AVX-512 keep it.
TEST(dense_product, a_row_has_the_same_bits_among_any_number_of_rows) {
  bool avx512 = !describe_processor_path().ends_with("no AVX-512");
  bool tiles = describe_processor_path().ends_with("AMX");
  for (auto type : {dtype::f32, dtype::bf16}) {
    if (type == dtype::f32 ? !avx512 : !tiles) continue;
    for (auto c : {dense_case{200, 2048, false}, {64, 33, false}}) {
      auto weight = random_values(std::size_t{c.out} * c.in, 1);
      auto made = dense_product::make(weight, {}, c.out, c.in, type);
      ASSERT_TRUE(made) << made.error().message;
      constexpr std::uint32_t most = 64;
      auto x = random_values(std::size_t{most} * c.in, 2);
      std::vector<float> alone(std::size_t{most} * c.out);
      for (std::size_t r = 0; r < most; ++r) made->run(x.data() + r * c.in, 1, alone.data() + r * c.out);
      for (std::uint32_t rows = 2; rows <= most; ++rows) {
        std::vector<float> y(std::size_t{rows} * c.out);
        made->run(x.data(), rows, y.data());
        EXPECT_TRUE(std::equal(y.begin(), y.end(), alone.begin())) << rows << " rows of " << c.in;
      }
    }
  }
}

TEST(dense_product, runs_on_many_threads_at_a_time) {
  dense_case c{70, 100, false};
  auto weight = random_values(std::size_t{c.out} * c.in, 1);
  auto made = dense_product::make(weight, {}, c.out, c.in, dtype::f32);
  ASSERT_TRUE(made);
  std::vector<double> worst(4);
  {
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < worst.size(); ++t) {
      threads.emplace_back([&, t] {
        for (std::uint32_t rows = 1; rows < 40; ++rows) {
          auto x = random_values(std::size_t{rows} * c.in, rows);
          std::vector<float> y(std::size_t{rows} * c.out);
          made->run(x.data(), rows, y.data());
          worst[t] = std::max(worst[t], worst_share(weight, {}, c, x, y));
        }
      });
    }
  }
  for (double share : worst) EXPECT_LE(share, 2e-6);
}

TEST(dense_product, refuses_sizes_that_do_not_fit) {
  std::vector<float> weight(12);
  EXPECT_FALSE(dense_product::make(weight, {}, 3, 5, dtype::f32));
  EXPECT_FALSE(dense_product::make(weight, std::vector<float>(2), 3, 4, dtype::f32));
  EXPECT_FALSE(dense_product::make({}, {}, 0, 4, dtype::f32));
  EXPECT_FALSE(dense_product::make(weight, {}, 3, 4, dtype::f16));
  EXPECT_TRUE(dense_product::make(weight, std::vector<float>(3), 3, 4, dtype::f32));
}

}  // namespace
}  // namespace troupe::compute::test
