// Every MoE layer of every family against what transformers (numpy for V-MoE) computed. See tests/golden/README.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <fmt/format.h>

#include "tests/model/family_models.hpp"
#include "tests/model/golden_file.hpp"
#include "tests/model/reference_layer.hpp"

namespace troupe::model::test {
namespace {

constexpr double weight_tolerance = 1e-5;
constexpr double output_tolerance = 2e-5;  // of the reference's largest absolute value

checkpoint open_golden(const std::string& family) { return must_open(golden_folder(family)); }

// "layer.3", "encoder.layer.1": how the golden files call a layer.
std::string golden_name(layer_id id) {
  auto text = to_string(id);
  auto dot = text.find('.');
  return dot == std::string::npos ? "layer." + text : text.substr(0, dot) + ".layer" + text.substr(dot);
}

double difference_to_peak(const std::vector<float>& ours, const std::vector<float>& reference) {
  EXPECT_EQ(ours.size(), reference.size());
  double largest = 0;
  double peak = 0;
  for (std::size_t i = 0; i < std::min(ours.size(), reference.size()); ++i) {
    largest = std::max(largest, std::abs(double{ours[i]} - double{reference[i]}));
    peak = std::max(peak, std::abs(double{reference[i]}));
  }
  EXPECT_GT(peak, 0);
  return largest / peak;
}

// Per token as a set: the reference's order within a token means nothing.
void expect_same_choice(const routing& ours, const std::vector<std::int32_t>& ids, const std::vector<float>& weights) {
  ASSERT_EQ(ours.expert_ids.size(), ids.size());
  for (std::size_t begin = 0; begin < ids.size(); begin += ours.top_k) {
    std::map<std::int32_t, float> expected;
    std::map<std::int32_t, float> chosen;
    for (std::size_t i = begin; i < begin + ours.top_k; ++i) {
      expected[ids[i]] = weights[i];
      chosen[ours.expert_ids[i]] = ours.weights[i];
    }
    ASSERT_EQ(chosen.size(), ours.top_k) << "an expert twice in token " << begin / ours.top_k;
    for (auto [expert, weight] : expected) {
      ASSERT_TRUE(chosen.contains(expert)) << "token " << begin / ours.top_k << " lacks expert " << expert;
      EXPECT_NEAR(chosen[expert], weight, weight_tolerance) << "token " << begin / ours.top_k << " expert " << expert;
    }
  }
}

class golden_family : public ::testing::TestWithParam<std::string> {};

TEST_P(golden_family, every_layer_gives_the_reference_output) {
  auto source = open_golden(GetParam());
  golden_file golden{golden_folder(GetParam()) / "layers.safetensors"};
  ASSERT_FALSE(source.model().layers.empty());
  for (const auto& layer : source.model().layers) {
    auto name = golden_name(layer.id);
    SCOPED_TRACE(name);
    auto out = run_layer(source, layer, golden.floats(name + ".input"));
    EXPECT_LT(difference_to_peak(out.logits, golden.floats(name + ".router_logits")), output_tolerance);
    expect_same_choice(out.chosen, golden.integers(name + ".expert_ids"), golden.floats(name + ".expert_weights"));
    bool is_vmoe = GetParam() == "vmoe";
    auto routed = golden.floats(name + (is_vmoe ? ".vanilla.routed_output" : ".routed_output"));
    EXPECT_LT(difference_to_peak(out.routed, routed), output_tolerance);
    if (is_vmoe) continue;
    EXPECT_LT(difference_to_peak(out.block, golden.floats(name + ".block_output")), output_tolerance);
  }
}

TEST_P(golden_family, has_exactly_the_layers_of_the_reference) {
  auto source = open_golden(GetParam());
  golden_file golden{golden_folder(GetParam()) / "layers.safetensors"};
  std::set<std::string> ours;
  for (const auto& layer : source.model().layers) ours.insert(golden_name(layer.id) + ".input");
  std::set<std::string> theirs;
  for (const auto& name : golden.names()) {
    if (name.ends_with(".input") && name.find("expert.") == std::string::npos) theirs.insert(name);
  }
  EXPECT_EQ(ours, theirs);
}

TEST_P(golden_family, single_experts_give_the_reference_output) {
  auto source = open_golden(GetParam());
  golden_file golden{golden_folder(GetParam()) / "layers.safetensors"};
  int compared = 0;
  for (const auto& layer : source.model().layers) {
    for (const auto& expert : layer.experts) {
      auto name = golden_name(layer.id);
      name.replace(name.find("layer"), 5, "expert");
      name += fmt::format(".{}", expert.id.index);
      if (!golden.contains(name + ".input")) continue;
      auto out = run_expert(source, expert, golden.floats(name + ".input"));
      EXPECT_LT(difference_to_peak(out, golden.floats(name + ".output")), output_tolerance) << name;
      ++compared;
    }
  }
  EXPECT_EQ(compared, static_cast<int>(source.model().layers.size()));
}

INSTANTIATE_TEST_SUITE_P(families, golden_family,
                         ::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3",
                                           "gpt_oss", "switch_transformers", "vmoe", "deepseek_v3_fp8", "qwen3_moe_fp8",
                                           "gpt_oss_mxfp4"),
                         [](const auto& family) { return family.param; });

TEST(golden_switch, capacity_drops_the_tokens_of_the_reference) {
  auto source = open_golden("switch_transformers");
  golden_file golden{golden_folder("switch_transformers") / "layers.safetensors"};
  for (const auto& layer : source.model().layers) {
    auto name = golden_name(layer.id);
    SCOPED_TRACE(name);
    auto out = run_layer(source, layer, golden.floats(name + ".input"));
    auto dropped = golden.integers(name + ".dropped");
    ASSERT_THAT(dropped, ::testing::Contains(1));
    EXPECT_THAT(out.chosen.dropped, ::testing::ElementsAreArray(dropped));
  }
}

TEST(golden_switch, the_count_restarts_with_each_sequence) {
  auto source = open_golden("switch_transformers");
  golden_file golden{golden_folder("switch_transformers") / "layers.safetensors"};
  for (const auto& layer : source.model().layers) {
    auto name = golden_name(layer.id);
    SCOPED_TRACE(name);
    auto hidden = golden.floats(name + ".input");
    std::span<const float> rest{hidden};
    std::vector<float> routed;
    std::vector<std::uint8_t> dropped;
    for (auto rows : golden.integers(name + ".two_sequences.lengths")) {
      auto out = run_layer(source, layer, rest.first(static_cast<std::size_t>(rows) * layer.shape.hidden));
      rest = rest.subspan(static_cast<std::size_t>(rows) * layer.shape.hidden);
      routed.insert(routed.end(), out.routed.begin(), out.routed.end());
      dropped.insert(dropped.end(), out.chosen.dropped.begin(), out.chosen.dropped.end());
    }
    EXPECT_THAT(dropped, ::testing::ElementsAreArray(golden.integers(name + ".two_sequences.dropped")));
    EXPECT_LT(difference_to_peak(routed, golden.floats(name + ".two_sequences.routed_output")), output_tolerance);
  }
}

struct vmoe_variant {
  std::string order;
  std::string suffix;
  std::string extra_keys;
};

class golden_vmoe : public ::testing::TestWithParam<vmoe_variant> {};

TEST_P(golden_vmoe, drops_and_computes_as_the_reference) {
  temporary_folder folder;
  std::filesystem::copy(golden_folder("vmoe"), folder.path(), std::filesystem::copy_options::recursive);
  folder.write("config.json", R"({"model_type": "vmoe", "hidden_size": 64, "intermediate_size": 96, "num_experts": 8,
                                  "num_selected_experts": 2, )" +
                                  GetParam().extra_keys + "}");
  auto source = must_open(folder.path());
  golden_file golden{folder.path() / "layers.safetensors"};
  auto out = run_layer(source, source.model().layers.front(), golden.floats("layer.0.input"));
  auto prefix = "layer.0." + GetParam().order;
  EXPECT_THAT(out.chosen.dropped, ::testing::ElementsAreArray(golden.integers(prefix + ".dropped")));
  EXPECT_LT(difference_to_peak(out.routed, golden.floats(prefix + ".routed_output" + GetParam().suffix)),
            output_tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    variants, golden_vmoe,
    ::testing::Values(vmoe_variant{"vanilla", "", R"("capacity": 5)"},
                      vmoe_variant{"vanilla", "", R"("capacity_factor": 0.8, "hidden_act": "gelu_erf")"},
                      vmoe_variant{"vanilla", "_gelu_tanh", R"("capacity": 5, "hidden_act": "gelu_tanh")"},
                      vmoe_variant{"batch_priority", "", R"("capacity": 5, "batch_priority": true)"},
                      vmoe_variant{"batch_priority", "_gelu_tanh",
                                   R"("capacity_factor": 0.8, "hidden_act": "gelu_tanh", "batch_priority": true)"}));

}  // namespace
}  // namespace troupe::model::test
