#include "compute/shared_expert.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

std::vector<float> narrowed(const std::vector<double>& values) { return {values.begin(), values.end()}; }

TEST(shared_expert, is_added_under_its_sigmoid_gate) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    for (bool with_gate : {false, true}) {
      model::expert_shape shape{100, 150, model::activation::swiglu, false};
      auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
      auto gate = narrowed(sample.gate);
      auto up = narrowed(sample.up);
      auto down = narrowed(sample.down);
      auto sigmoid_gate = with_gate ? random_values(shape.hidden, 9) : std::vector<float>{};
      auto made = shared_expert::make({.gate = gate, .up = up, .down = down, .sigmoid_gate = sigmoid_gate},
                                      shape.hidden, shape.width, shape.act, type, *work_team::start(2, "a test"));
      ASSERT_TRUE(made) << made.error().message;
      EXPECT_GE(made->bytes(), 3U * 100 * 150 * bytes_per_element(type));
      for (std::uint32_t rows : {1U, 40U}) {
        auto x = random_values(std::size_t{rows} * shape.hidden, rows);
        auto y = random_values(x.size(), 5);
        auto before = y;
        auto done = made->add_to(x.data(), rows, y.data());
        ASSERT_TRUE(done) << done.error().message;
        for (std::uint32_t r = 0; r < rows; ++r) {
          auto row = std::span(x).subspan(std::size_t{r} * shape.hidden, shape.hidden);
          auto expected = expected_output(sample, row);
          double logit = with_gate ? std::inner_product(row.begin(), row.end(), sigmoid_gate.begin(), 0.0) : 0.0;
          double factor = with_gate ? 1 / (1 + std::exp(-logit)) : 1.0;
          for (std::size_t c = 0; c < expected.size(); ++c) {
            std::size_t i = r * shape.hidden + c;
            EXPECT_NEAR(y[i] - double{before[i]}, factor * expected[c], type == dtype::f32 ? 5e-6 : 3e-2);
          }
        }
      }
    }
  }
}

TEST(shared_expert, refuses_sizes_that_do_not_fit) {
  std::vector<float> weights(12);
  auto make = [&](shared_expert_weights w) {
    return shared_expert::make(w, 4, 3, model::activation::swiglu, dtype::f32, *work_team::start(1, "a test"));
  };
  EXPECT_TRUE(make({.gate = weights, .up = weights, .down = weights, .sigmoid_gate = {}}));
  EXPECT_FALSE(make({.gate = {}, .up = weights, .down = weights, .sigmoid_gate = {}}));
  EXPECT_FALSE(make({.gate = weights, .up = weights, .down = weights, .sigmoid_gate = weights}));
}

}  // namespace
}  // namespace troupe::compute::test
