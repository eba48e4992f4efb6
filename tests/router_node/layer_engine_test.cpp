// What a router reads of a checkpoint for its layers.
#include "router_node/shell/layer_engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/model/family_models.hpp"

namespace troupe::router {
namespace {

using ::testing::HasSubstr;

std::string refusal(const model::test::family_model& model) {
  model::test::temporary_folder folder;
  model.write(folder);
  const auto checkpoint = model::test::must_open(folder.path());
  const auto made = layer_engine::make(checkpoint, dtype::f32, 1);
  return made ? "" : made.error().message;
}

// faults.md C5: what every row passes must be finite; quantised ones with their scales.
TEST(layer_engine, c5_shared_experts_that_are_not_finite_are_refused_by_name) {
  EXPECT_EQ(refusal(model::test::make_model("deepseek_v3")), "");
  auto plain = model::test::make_model("deepseek_v3");
  const std::string name = "model.layers.1.mlp.shared_experts.up_proj.weight";
  plain.tensors.set(name, std::vector<float>(14 * 11, std::numeric_limits<float>::infinity()));
  EXPECT_THAT(refusal(plain), HasSubstr(name));

  EXPECT_EQ(refusal(model::test::make_model("deepseek_v3_fp8")), "");
  auto quantised = model::test::make_model("deepseek_v3_fp8");
  quantised.tensors.set(name + "_scale_inv", std::vector<float>(16, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_THAT(refusal(quantised), HasSubstr(name));
}

}  // namespace
}  // namespace troupe::router
