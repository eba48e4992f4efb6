// Opening checkpoint folders and reading bundles from them; missing tensors (faults.md C6), weights that are not finite
// (C5).
#include "model/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <limits>
#include <stdexcept>

#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::vector<std::byte> bundle_of(const checkpoint& source, const expert_id& id) {
  const auto* layout = source.model().find(id);
  if (layout == nullptr) throw std::runtime_error("no expert " + to_string(id));
  std::vector<std::byte> bytes(layout->bytes());
  if (auto read = source.read_bundle(*layout, bytes); !read) throw std::runtime_error(read.error().message);
  return bytes;
}

class every_family : public ::testing::TestWithParam<std::string> {};

TEST_P(every_family, opens_with_odd_sizes_in_every_dtype) {
  for (auto type : {dtype::f32, dtype::f16, dtype::bf16}) {
    temporary_folder folder;
    make_model(GetParam(), {.type = type}).write(folder);
    auto source = must_open(folder.path());
    const auto& model = source.model();
    EXPECT_EQ(model.family, GetParam());
    EXPECT_EQ(model.name, folder.path().filename());
    EXPECT_EQ(model.hidden, 11U);
    EXPECT_EQ(model.stored, type);
    ASSERT_FALSE(model.layers.empty());
    for (const auto& layer : model.layers) {
      EXPECT_EQ(layer.experts.size(), 5U);
      EXPECT_EQ(layer.shape.width, 7U);
      for (const auto& expert : layer.experts) EXPECT_EQ(model.find(expert.id), &expert);
    }
  }
}

TEST_P(every_family, gives_the_same_bundles_from_one_file_and_from_shards_that_split_experts) {
  auto model = make_model(GetParam());
  temporary_folder whole;
  model.write(whole);
  temporary_folder sharded;
  sharded.write("config.json", model.config.dump());
  model.tensors.write_shards(sharded, 4);
  auto one = must_open(whole.path());
  auto four = must_open(sharded.path());
  EXPECT_EQ(four.files().size(), 4U);
  bool splits = false;
  for (const auto& layer : one.model().layers) {
    for (const auto& expert : layer.experts) {
      EXPECT_EQ(bundle_of(one, expert.id), bundle_of(four, expert.id)) << to_string(expert.id);
      const auto* layout = four.model().find(expert.id);
      splits |= layout->tensors.front().file != layout->tensors.back().file;
    }
  }
  EXPECT_TRUE(splits);
  EXPECT_NE(one.model().fingerprint, four.model().fingerprint);
}

TEST_P(every_family, reads_the_bytes_of_each_tensor_into_the_bundle) {
  auto model = make_model(GetParam());
  temporary_folder folder;
  model.write(folder);
  auto source = must_open(folder.path());
  for (const auto& layer : source.model().layers) {
    for (const auto& expert : layer.experts) {
      auto bytes = bundle_of(source, expert.id);
      std::size_t begin = 0;
      for (const auto& tensor : expert.tensors) {
        const auto& stored = model.tensors.entries().at(tensor.name).bytes;
        bool packed = stored.size() != tensor.bytes;
        auto piece = std::span{stored}.subspan(packed ? expert.id.index * tensor.bytes : 0, tensor.bytes);
        EXPECT_TRUE(std::ranges::equal(piece, std::span{bytes}.subspan(begin, tensor.bytes))) << tensor.name;
        begin += tensor.bytes;
      }
      EXPECT_EQ(begin, bytes.size());
    }
  }
}

TEST_P(every_family, lists_every_missing_tensor_at_once_c6) {
  auto model = make_model(GetParam());
  std::vector<std::string> used;  // the gate and the first expert's tensors of the last layer, but one
  {
    temporary_folder folder;
    model.write(folder);
    auto source = must_open(folder.path());
    const auto& layer = source.model().layers.back();
    used.push_back(layer.gate.weight);
    for (const auto& tensor : layer.experts.front().tensors) used.push_back(tensor.name);
    used.pop_back();  // an expert without any tensor would be one row of its own
  }
  for (const auto& name : used) model.tensors.erase(name);
  temporary_folder folder;
  model.write(folder);
  auto message = open_error(folder.path());
  for (const auto& name : used) EXPECT_THAT(message, HasSubstr(name));
  EXPECT_THAT(message, AllOf(HasSubstr("expected"), HasSubstr("found"), HasSubstr("missing")));
}

INSTANTIATE_TEST_SUITE_P(families, every_family, ::testing::ValuesIn(all_families()),
                         [](const auto& family) { return family.param; });

// -- C5 and what else is read
// --------------------------------------------------------------------------------------------

TEST(checkpoint_c5, the_first_weight_that_is_not_finite_is_named) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (auto type : {dtype::f32, dtype::f16, dtype::bf16}) {
      auto model = make_model("qwen3_moe", {.type = type});
      std::vector<float> values(77, 0.25F);
      values[40] = bad;
      model.tensors.set("model.layers.1.mlp.experts.3.up_proj.weight", values);
      temporary_folder folder;
      model.write(folder);
      auto source = must_open(folder.path());
      expert_id id{layer_id::of(1), 3};
      auto checked = check_finite(*source.model().find(id), bundle_of(source, id));
      ASSERT_FALSE(checked);
      EXPECT_THAT(checked.error().message,
                  AllOf(HasSubstr("expert 1/3"), HasSubstr("element 40"), HasSubstr("experts.3.up_proj.weight"),
                        HasSubstr("--allow-nonfinite")));
      expert_id good{layer_id::of(1), 2};
      EXPECT_TRUE(check_finite(*source.model().find(good), bundle_of(source, good)));
    }
  }
}

TEST(checkpoint_c5, a_gate_that_is_not_finite_is_refused_when_read) {
  auto model = make_model("mixtral", {.type = dtype::f32});
  std::vector<float> values(55, 1.0F);
  values[7] = std::numeric_limits<float>::infinity();
  model.tensors.set("model.layers.2.block_sparse_moe.gate.weight", values);
  temporary_folder folder;
  model.write(folder);
  auto source = must_open(folder.path());
  EXPECT_TRUE(source.read_gate(source.model().layers[1].gate));
  auto gate = source.read_gate(source.model().layers[2].gate);
  ASSERT_FALSE(gate);
  EXPECT_THAT(gate.error().message, HasSubstr("model.layers.2.block_sparse_moe.gate.weight"));
}

TEST(checkpoint_reading, tensors_are_found_by_name_and_widened) {
  auto model = make_model("deepseek_v3");
  model.tensors.set("model.layers.1.mlp.gate.e_score_correction_bias", {-1, 2, -3, 4, 0.5});
  model.tensors.add("ids", {3}, dtype::i32);
  model.tensors.entries().at("ids").bytes.resize(12);
  temporary_folder folder;
  model.write(folder);
  auto source = must_open(folder.path());
  EXPECT_EQ(source.find_tensor("absent"), nullptr);
  EXPECT_EQ(source.find_tensor("ids")->type, dtype::i32);
  EXPECT_EQ(source.read_f32("absent").error().code, errc::not_found);
  EXPECT_EQ(source.read_f32("ids").error().code, errc::invalid_request);
  auto gate = source.read_gate(source.model().layers[0].gate);
  ASSERT_TRUE(gate);
  EXPECT_THAT(gate->correction_bias, ::testing::ElementsAre(-1, 2, -3, 4, 0.5));
  EXPECT_EQ(gate->weight.size(), 55U);
  EXPECT_TRUE(gate->bias.empty());
}

TEST(checkpoint_fingerprint, changes_with_the_config_and_the_tensors_but_not_with_the_place_of_the_folder) {
  auto model = make_model("mixtral");
  temporary_folder a;
  temporary_folder b;
  model.write(a);
  model.write(b);
  auto fingerprint = must_open(a.path()).model().fingerprint;
  EXPECT_EQ(fingerprint.size(), 64U);
  EXPECT_EQ(must_open(b.path()).model().fingerprint, fingerprint);
  model.config["rms_norm_eps"] = 1e-5;
  model.write(b);
  EXPECT_NE(must_open(b.path()).model().fingerprint, fingerprint);
  model.config.erase("rms_norm_eps");
  model.tensors.add("model.norm.weight", {11}, dtype::bf16);
  model.write(b);
  EXPECT_NE(must_open(b.path()).model().fingerprint, fingerprint);
}

TEST(digest, is_sha256_in_hex_and_back) {
  std::string text = "abc";
  auto digest = digest_of(std::as_bytes(std::span{text}));
  EXPECT_EQ(to_hex(digest), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(parse_digest(to_hex(digest)), digest);
  EXPECT_EQ(parse_digest("ba78"), std::nullopt);
  EXPECT_EQ(parse_digest(std::string(63, 'a') + "g"), std::nullopt);
  EXPECT_EQ(parse_digest("-1" + std::string(62, 'a')), std::nullopt);
}

}  // namespace
}  // namespace troupe::model::test
