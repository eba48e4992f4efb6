// What a second folder offers for a refresh, and what is refused.
#include "model/refresh.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "model/inspect.hpp"
#include "model/manifest.hpp"
#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class refresh : public ::testing::TestWithParam<std::string> {
 protected:
  refresh() : next_model(make_model(GetParam())) {
    next_model.write(served_folder);
    auto served = must_open(served_folder.path());
    const auto& layer = served.model().layers.back();
    const auto& expert = layer.experts[2];
    chosen = expert.id;
    changed_tensor = expert.tensors.back().name;
    gate = layer.gate.weight;
  }

  auto& bytes_of(const std::string& tensor) { return next_model.tensors.entries().at(tensor).bytes; }
  result<expert_digests> offer() {
    next_model.write(next_folder);
    return digests_for_refresh(must_open(served_folder.path()), must_open(next_folder.path()));
  }
  std::string refusal() {
    auto offered = offer();
    return offered ? "accepted" : offered.error().message;
  }

  temporary_folder served_folder, next_folder;
  family_model next_model;
  expert_id chosen;
  std::string changed_tensor, gate;
};

TEST_P(refresh, from_the_same_weights_offers_the_same_digests) {
  next_model.config["transformers_version"] = "9.9.9";
  auto offered = offer();
  ASSERT_TRUE(offered) << offered.error().message;
  EXPECT_EQ(*offered, verify(must_open(served_folder.path()))->digests.digests);
}

TEST_P(refresh, offers_another_digest_for_the_expert_whose_bytes_differ) {
  bytes_of(changed_tensor).at(0) ^= std::byte{1};
  auto offered = offer();
  ASSERT_TRUE(offered) << offered.error().message;
  auto expected = verify(must_open(served_folder.path()))->digests.digests;
  EXPECT_NE(offered->at(chosen), expected.at(chosen));
  expected.at(chosen) = verify(must_open(next_folder.path()))->digests.digests.at(chosen);
  EXPECT_EQ(*offered, expected);
}

TEST_P(refresh, refuses_a_gate_that_differs) {
  bytes_of(gate).back() ^= std::byte{1};
  EXPECT_THAT(refusal(), AllOf(HasSubstr(gate), HasSubstr("changes the values of experts only")));
}

TEST_P(refresh, refuses_a_value_that_is_not_finite) {
  auto& bytes = bytes_of(changed_tensor);
  std::fill_n(bytes.begin(), 4, std::byte{0xff});
  EXPECT_THAT(refusal(), AllOf(HasSubstr(changed_tensor), HasSubstr("NaN or infinite")));
}

TEST_P(refresh, refuses_another_config) {
  next_model.config["num_experts_per_tok"] = 2;
  EXPECT_THAT(refusal(), HasSubstr("config.json: num_experts_per_tok"));
}

TEST_P(refresh, names_a_tensor_and_both_its_shapes) {
  next_model.tensors.add("extra.weight", {2, 3});
  next_model.write(served_folder);
  next_model.tensors.add("extra.weight", {3, 2});
  EXPECT_THAT(refusal(), AllOf(HasSubstr("extra.weight"), HasSubstr("[2,3]"), HasSubstr("[3,2]")));
}

TEST_P(refresh, refuses_files_that_their_manifest_does_not_describe) {
  next_model.write(next_folder);
  auto report = verify(must_open(next_folder.path()));
  ASSERT_TRUE(report);
  report->digests.digests.at(chosen)[0] ^= std::byte{1};
  ASSERT_TRUE(write_manifest(next_folder.path(), report->digests));
  EXPECT_THAT(refusal(), HasSubstr("the manifest says"));
}

INSTANTIATE_TEST_SUITE_P(families, refresh, ::testing::Values("qwen2_moe", "deepseek_v3"),
                         [](const auto& tested) { return tested.param; });

}  // namespace
}  // namespace troupe::model::test
