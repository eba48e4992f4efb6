#include "router_node/core/layer_plan.hpp"

#include <cstring>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/limits.hpp"

namespace troupe::router {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

model::description make_model() {
  model::description model;
  for (const auto id : {layer_id::of(1), layer_id::of(2), layer_id::of(3), layer_id::of(7),
                        layer_id::of(1, layer_stack::encoder), layer_id::of(3, layer_stack::encoder)}) {
    model::moe_layer layer;
    layer.id = id;
    layer.gate.num_experts = 4;
    layer.gate.top_k = 2;
    layer.shape.hidden = 8;
    model.layers.push_back(layer);
  }
  return model;
}

class planning : public ::testing::Test {
 protected:
  tensor_view make(dtype type, std::vector<std::uint64_t> shape) {
    std::uint64_t count = 1;
    for (const auto n : shape) count *= n;
    bytes_.assign(count * bytes_per_element(type), std::byte{});
    return {type, std::move(shape), bytes_};
  }
  error refusal(const tensor_view& hidden) {
    const auto checked = check_hidden(plan_.layers().front(), hidden);
    return checked ? error{} : checked.error();
  }

  std::vector<std::byte> bytes_;
  model_plan plan_{model_plan::make(make_model(), dtype::f32)};
};

TEST_F(planning, finds_layers_and_names_the_known_ones) {
  EXPECT_EQ((*plan_.find("2"))->id, layer_id::of(2));
  EXPECT_EQ((*plan_.find("encoder.3"))->id, layer_id::of(3, layer_stack::encoder));
  for (const auto* text : {"", "4", "decoder.1", "two", "16777217"}) {
    const auto found = plan_.find(text);
    ASSERT_FALSE(found) << text;
    EXPECT_EQ(found.error().code, errc::not_found);
    EXPECT_THAT(found.error().message, HasSubstr("1-3, 7, encoder.1, encoder.3"));
  }
}

TEST_F(planning, w7_w8_refuses_shapes_and_dtypes_with_the_numbers) {
  EXPECT_THAT(refusal(make(dtype::i32, {2, 8})).message, HasSubstr("I32"));
  EXPECT_THAT(refusal(make(dtype::f64, {2, 8})).message, HasSubstr("F32, F16 or BF16"));
  EXPECT_THAT(refusal(make(dtype::f32, {2, 9})).message, AllOf(HasSubstr("9"), HasSubstr("8")));
  EXPECT_THAT(refusal(make(dtype::f32, {16})).message, HasSubstr("1 dimensions"));
  EXPECT_THAT(refusal(make(dtype::f32, {1, 2, 8})).message, HasSubstr("[1, 2, 8]"));
  EXPECT_THAT(refusal(make(dtype::f32, {0, 8})).message, HasSubstr("0 rows"));
  const auto many = refusal(make(dtype::f16, {limits::rows_per_request_max + 1, 8}));
  EXPECT_EQ(many.code, errc::too_large);
  EXPECT_TRUE(check_hidden(plan_.layers().front(), make(dtype::bf16, {2, 8})));
}

TEST_F(planning, reads_the_callers_choice) {
  const std::vector<std::int32_t> ids{0, -1, 3, 3};
  const std::vector<float> weights{1, 0, 0.5F, 2};
  const tensor_view id_view{dtype::i32, {2, 2}, std::as_bytes(std::span(ids))};
  const tensor_view weight_view{dtype::f32, {2, 2}, std::as_bytes(std::span(weights))};
  const auto routing = check_choice(plan_.layers().front(), 2, id_view, weight_view);
  ASSERT_TRUE(routing);
  EXPECT_EQ(routing->top_k, 2U);
  EXPECT_EQ(routing->expert_ids, ids);
  EXPECT_EQ(routing->weights, weights);
  EXPECT_FALSE(check_choice(plan_.layers().front(), 3, id_view, weight_view));
  EXPECT_FALSE(check_choice(plan_.layers().front(), 2, weight_view, weight_view));
  EXPECT_FALSE(check_choice(plan_.layers().front(), 2, id_view, id_view));
  EXPECT_FALSE(check_choice(plan_.layers().front(), 2, id_view, make(dtype::f32, {2, 1})));
  for (const std::int32_t wrong : {-2, 4}) {
    const std::vector<std::int32_t> bad{0, 0, 0, wrong};
    const auto refused =
        check_choice(plan_.layers().front(), 2, {dtype::i32, {2, 2}, std::as_bytes(std::span(bad))}, weight_view);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, errc::unknown_expert);
    EXPECT_THAT(refused.error().message, AllOf(HasSubstr("row 1"), HasSubstr("0-3")));
  }
}

TEST(planning_values, timeouts_policies_and_dtypes) {
  EXPECT_EQ(request_timeout(0), limits::request_timeout_default);
  EXPECT_EQ(request_timeout(7), std::chrono::milliseconds(7));
  EXPECT_EQ(request_timeout(UINT64_MAX), limits::request_timeout_max);
  EXPECT_EQ(parse_degrade("renormalise"), degrade::renormalise);
  EXPECT_EQ(parse_degrade("Wait"), std::nullopt);
  EXPECT_EQ(*resolve_dtype("auto", dtype::f16), dtype::f32);
  EXPECT_EQ(*resolve_dtype("auto", dtype::bf16), dtype::bf16);
  EXPECT_EQ(*resolve_dtype("auto", dtype::f8_e4m3), dtype::bf16);
  EXPECT_EQ(*resolve_dtype("f32", dtype::bf16), dtype::f32);
  EXPECT_FALSE(resolve_dtype("int8", dtype::bf16));
}

}  // namespace
}  // namespace troupe::router
