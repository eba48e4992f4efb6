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
        std::vector<float> row(piece.in);
        read_row(piece, sample.bundle.data(), o, row.data());
        for (std::size_t i = 0; i < piece.in; ++i) {
          EXPECT_EQ(read_element(piece, sample.bundle.data(), o, i), values[o * piece.in + i]) << o << ", " << i;
          EXPECT_EQ(row[i], values[o * piece.in + i]) << o << ", " << i;
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

TEST(bundle_plan, widens_quantised_weights_by_their_scales) {
  for (auto [stored, form] : {std::pair{dtype::f8_e4m3, stored_form::separate},
                              {dtype::f8_e4m3, stored_form::interleaved},
                              {dtype::u8, stored_form::separate},
                              {dtype::u8, stored_form::interleaved}}) {
    model::expert_shape shape{96, 64, model::activation::clamped_glu, true};
    if (stored == dtype::f8_e4m3) shape.hidden = 101, shape.width = 83;
    auto sample = make_sample(shape, stored, form, 3);
    auto plan = plan_bundle(sample.layout, sample.bundle.size());
    ASSERT_TRUE(plan) << plan.error().message;
    const std::pair<const matrix_piece*, const std::vector<double>*> parts[] = {
        {&plan->gate, &sample.gate}, {&plan->up, &sample.up}, {&plan->down, &sample.down}};
    for (const auto& [piece, values] : parts) {
      ASSERT_EQ(values->size(), std::size_t{piece->out} * piece->in);
      std::vector<float> row(piece->in);
      for (std::size_t o = 0; o < piece->out; ++o) {
        read_row(*piece, sample.bundle.data(), o, row.data());
        for (std::size_t i = 0; i < row.size(); ++i) {
          ASSERT_EQ(row[i], static_cast<float>((*values)[o * row.size() + i])) << o << ", " << i;
        }
      }
    }
  }
}

TEST(bundle_plan, quantised_weights_need_scales_that_fit_them) {
  using enum model::tensor_role;
  auto refused = [](dtype stored, const std::function<void(model::bundle_layout&)>& spoil) {
    auto layout = make_sample({96, 64, model::activation::swiglu, false}, stored, stored_form::separate, 3).layout;
    spoil(layout);
    auto plan = plan_bundle(layout, layout.bytes());
    EXPECT_FALSE(plan);
    return plan ? std::string{} : plan.error().message;
  };
  const auto as = [](model::bundle_tensor& tensor, dtype type, std::vector<std::uint64_t> shape) {
    tensor.type = type;
    tensor.shape = std::move(shape);
    tensor.bytes = *checked_bytes(type, tensor.shape);
  };
  const auto fp8 = dtype::f8_e4m3;
  EXPECT_THAT(refused(fp8, [](auto& l) { l.tensors.erase(l.tensors.begin() + 1); }),
              HasSubstr("tensor tensor.0 is F8_E4M3 and has no gate_scale that fits it"));
  EXPECT_THAT(refused(fp8, [](auto& l) { l.tensors.push_back(l.tensors[1]); }), HasSubstr("is there twice"));
  EXPECT_THAT(refused(fp8,
                      [&](auto& l) {
                        as(l.tensors[1], dtype::f32, {3, 2});
                      }),
              HasSubstr("(gate_scale) has shape 3 x 2, expected 2 x 3"));
  EXPECT_THAT(refused(fp8, [&](auto& l) { as(l.tensors[1], dtype::u8, {2, 3}); }), HasSubstr("no gate_scale"));
  EXPECT_THAT(refused(fp8,
                      [&](auto& l) {
                        as(l.tensors[0], dtype::bf16, {64, 96});
                      }),
              HasSubstr("gate_scale is not expected"));
  EXPECT_THAT(refused(fp8, [](auto& l) { l.tensors[0].transposed = true; }), HasSubstr("transposed"));
  EXPECT_THAT(refused(fp8, [](auto& l) { l.block = {0, 40}; }), HasSubstr("0 x 40"));
  EXPECT_THAT(refused(dtype::u8, [](auto& l) { l.block = {1, 16}; }), HasSubstr("shape 64 x 3, expected 64 x 6"));
  EXPECT_THAT(refused(dtype::u8, [&](auto& l) { as(l.tensors[1], dtype::f32, {64, 3}); }), HasSubstr("no gate_scale"));
  EXPECT_THAT(refused(dtype::u8, [](auto& l) { l.shape.hidden = 90; }), HasSubstr("has shape 64 x 3 x 16"));
  EXPECT_THAT(refused(dtype::u8,
                      [&](auto& l) {
                        as(l.tensors[0], dtype::u8, {64, 96});
                      }),
              HasSubstr("expected 64 x 3 x 16"));
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
