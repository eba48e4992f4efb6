#include "compute/bundle_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

using ::testing::HasSubstr;

TEST(bundle_plan, finds_every_weight_in_every_form) {
  model::expert_shape shape{6, 4, model::activation::swiglu, true};
  for (auto form : {stored_form::separate, stored_form::transposed, stored_form::interleaved,
                    stored_form::interleaved_transposed}) {
    auto sample = make_sample(shape, dtype::f16, form, 3);
    auto plan = plan_bundle(sample.layout, sample.bundle.size());
    ASSERT_TRUE(plan) << plan.error().message;
    auto expect_equal = [&](const matrix_piece& piece, const std::vector<double>& values) {
      for (std::size_t o = 0; o < piece.out; ++o) {
        for (std::size_t i = 0; i < piece.in; ++i) {
          EXPECT_EQ(read_element(piece, sample.bundle.data(), o, i), values[o * piece.in + i]) << o << ", " << i;
        }
      }
    };
    expect_equal(plan->gate, sample.gate);
    expect_equal(plan->up, sample.up);
    expect_equal(plan->down, sample.down);
    expect_equal(plan->gate_bias, sample.gate_bias);
    expect_equal(plan->up_bias, sample.up_bias);
    expect_equal(plan->down_bias, sample.down_bias);
  }
}

TEST(bundle_plan, refuses_and_names_what_is_wrong) {
  model::expert_shape shape{6, 4, model::activation::swiglu, false};
  auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 3);
  auto refused = [&](const std::function<void(model::bundle_layout&)>& spoil, std::size_t bytes) {
    auto layout = sample.layout;
    spoil(layout);
    auto plan = plan_bundle(layout, bytes);
    EXPECT_FALSE(plan);
    if (plan) return std::string{};
    EXPECT_EQ(plan.error().code, errc::invalid_request);
    return plan.error().message;
  };
  std::size_t size = sample.bundle.size();
  EXPECT_THAT(refused([](auto&) {}, size - 1), HasSubstr("143 bytes were given, its tensors have 144"));
  EXPECT_THAT(refused([](auto& l) { l.tensors.pop_back(); }, size - 48), HasSubstr("down is missing"));
  EXPECT_THAT(refused([](auto& l) { l.tensors.push_back(l.tensors[0]); }, size + 48), HasSubstr("is there twice"));
  EXPECT_THAT(refused(
                  [](auto& l) {
                    l.tensors[0].shape = {6, 4};
                  },
                  size),
              HasSubstr("has shape 6 x 4, expected 4 outputs and 6 inputs"));
  EXPECT_THAT(refused([](auto& l) { l.tensors[0].type = dtype::f8_e4m3; }, size), HasSubstr("F8_E4M3"));
  EXPECT_THAT(refused([](auto& l) { l.tensors[0].bytes = 40; }, size), HasSubstr("40 bytes"));
  EXPECT_THAT(refused([](auto& l) { l.shape.has_bias = true; }, size), HasSubstr("gate_bias is missing"));
  EXPECT_THAT(refused([](auto& l) { l.shape.act = model::activation::relu; }, size), HasSubstr("gate is not expected"));
  EXPECT_THAT(refused([](auto& l) { l.shape.hidden = 0; }, size), HasSubstr("is zero"));
}

}  // namespace
}  // namespace troupe::compute::test
