// Weights in fp8 and mxfp4: numbers, blocks, what is read from a checkpoint, and what is refused.
#include "model/quantised.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "model/checkpoint.hpp"
#include "model/inspect.hpp"
#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// -- numbers ----------------------------------------------------------------------------------------------------------

TEST(quantised_numbers, e4m3_are_what_their_bits_say) {
  for (unsigned bits = 0; bits < 256; ++bits) {
    const float value = e4m3_to_f32(static_cast<std::uint8_t>(bits));
    if ((bits & 0x7fU) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    const int exponent = static_cast<int>(bits >> 3 & 15U);
    const double fraction = (bits & 7U) / 8.0;
    const double expected = exponent == 0 ? std::ldexp(fraction, -6) : std::ldexp(1 + fraction, exponent - 7);
    EXPECT_EQ(value, static_cast<float>(bits < 128 ? expected : -expected)) << bits;
  }
  EXPECT_EQ(e4m3_to_f32(0x7e), 448.0F);
  EXPECT_EQ(e4m3_to_f32(0x01), 0x1p-9F);
  EXPECT_TRUE(std::signbit(e4m3_to_f32(0x80)));
}

TEST(quantised_numbers, e8m0_are_powers_of_two_and_one_nan) {
  for (int bits = 0; bits < 255; ++bits) {
    EXPECT_EQ(e8m0_to_f32(static_cast<std::uint8_t>(bits)), std::ldexp(1.0F, bits - 127)) << bits;
  }
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
}

TEST(quantised_numbers, e2m1_are_sixteen) {
  const float expected[] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  for (unsigned bits = 0; bits < 8; ++bits) {
    EXPECT_EQ(e2m1_to_f32(bits), expected[bits]);
    EXPECT_EQ(e2m1_to_f32(bits + 8), -expected[bits]);
  }
}

TEST(quantised_rows, blocks_at_the_edges_are_smaller) {
  EXPECT_THAT(scales_shape(5, 7, {2, 3}), ElementsAre(3, 3));
  EXPECT_THAT(scales_shape(4, 6, {2, 3}), ElementsAre(2, 2));
  EXPECT_THAT(scales_shape(1, 1, {128, 128}), ElementsAre(1, 1));
  const std::vector<std::byte> ones(5 * 7, std::byte{0x38});
  std::vector<float> scales(9);
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
  const quantised_matrix matrix{.type = dtype::f8_e4m3,
                                .numbers = ones.data(),
                                .scale_type = dtype::f32,
                                .scales = reinterpret_cast<const std::byte*>(scales.data()),
                                .in = 7,
                                .block = {2, 3}};
  std::vector<float> row(7);
  dequantise_row(matrix, 1, row.data());
  EXPECT_THAT(row, ElementsAre(1, 1, 1, 2, 2, 2, 3));
  dequantise_row(matrix, 4, row.data());
  EXPECT_THAT(row, ElementsAre(7, 7, 7, 8, 8, 8, 9));
}

TEST(quantised_rows, the_low_half_of_a_byte_comes_first) {
  std::vector<std::byte> numbers(2 * 16, std::byte{0});
  numbers[16] = std::byte{0x72};  // 1, then 6
  const std::byte scales[] = {std::byte{127}, std::byte{129}};
  const quantised_matrix matrix{.type = dtype::u8,
                                .numbers = numbers.data(),
                                .scale_type = dtype::u8,
                                .scales = scales,
                                .in = 32,
                                .block = mxfp4_block};
  std::vector<float> row(32);
  dequantise_row(matrix, 1, row.data());
  EXPECT_EQ(row[0], 4.0F);
  EXPECT_EQ(row[1], 24.0F);
  EXPECT_EQ(row[2], 0.0F);
}

// -- checkpoints ------------------------------------------------------------------------------------------------------

constexpr const char* wanted = "model.layers.1.mlp.experts.2.up_proj.weight";

family_model make_fp8() { return make_model("deepseek_v3_fp8"); }  // blocks of 4 x 3; hidden 11, width 7

family_model make_mxfp4(std::uint32_t hidden = 64, std::uint32_t width = 32) {
  return make_model("gpt_oss_mxfp4", {.hidden = hidden, .width = width, .layers = 1});
}

std::string refusal(const family_model& model) {
  temporary_folder folder;
  model.write(folder);
  return open_error(folder.path());
}

TEST(quantised_checkpoint, a_bundle_of_fp8_has_a_scale_behind_each_weight) {
  temporary_folder folder;
  auto model = make_fp8();
  model.write(folder);
  auto source = must_open(folder.path());
  EXPECT_EQ(source.model().stored, dtype::f8_e4m3);
  EXPECT_EQ(stored_name(source.model().stored), "F8_E4M3");
  const auto& expert = source.model().layers.front().experts[2];
  EXPECT_EQ(expert.block, (scale_block{4, 3}));
  using enum tensor_role;
  const std::pair<tensor_role, std::string> expected[] = {
      {gate, "gate_proj.weight"}, {gate_scale, "gate_proj.weight_scale_inv"},
      {up, "up_proj.weight"},     {up_scale, "up_proj.weight_scale_inv"},
      {down, "down_proj.weight"}, {down_scale, "down_proj.weight_scale_inv"}};
  ASSERT_EQ(expert.tensors.size(), 6U);
  std::vector<std::byte> bytes(expert.bytes()), all;
  ASSERT_TRUE(source.read_bundle(expert, bytes));
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(expert.tensors[i].role, expected[i].first);
    EXPECT_TRUE(expert.tensors[i].name.ends_with(".experts.2." + expected[i].second)) << expert.tensors[i].name;
    const auto& stored = model.tensors.entries().at(expert.tensors[i].name).bytes;
    all.insert(all.end(), stored.begin(), stored.end());
  }
  EXPECT_EQ(bytes, all);
  EXPECT_EQ(expert.bytes(), 3U * 77 + 4 * (2 * 2 * 4 + 3 * 3));
  EXPECT_EQ(summarise(source).layers[0].bytes_per_expert, expert.bytes());
}

TEST(quantised_checkpoint, a_bundle_of_mxfp4_is_cut_from_packed_tensors) {
  temporary_folder folder;
  auto model = make_mxfp4();
  model.write(folder);
  auto source = must_open(folder.path());
  EXPECT_EQ(stored_name(source.model().stored), "MXFP4");
  const auto& expert = source.model().layers.front().experts[3];
  EXPECT_EQ(expert.block, mxfp4_block);
  ASSERT_EQ(expert.tensors.size(), 6U);
  std::vector<std::byte> bytes(expert.bytes()), all;
  ASSERT_TRUE(source.read_bundle(expert, bytes));
  for (const auto& tensor : expert.tensors) {
    const auto& stored = model.tensors.entries().at(tensor.name).bytes;
    ASSERT_EQ(stored.size(), 5 * tensor.bytes);
    const auto begin = stored.begin() + static_cast<std::ptrdiff_t>(3 * tensor.bytes);
    all.insert(all.end(), begin, begin + static_cast<std::ptrdiff_t>(tensor.bytes));
  }
  EXPECT_EQ(bytes, all);
  EXPECT_THAT(expert.tensors[0].shape, ElementsAre(64, 2, 16));
  EXPECT_THAT(expert.tensors[1].shape, ElementsAre(64, 2));
  EXPECT_EQ(expert.tensors[1].role, tensor_role::gate_up_scale);
  EXPECT_FALSE(expert.tensors[0].transposed);
}

TEST(quantised_checkpoint, scales_may_be_of_the_types_that_files_have) {
  auto fp8 = make_fp8();
  fp8.tensors.add(std::string{wanted} + "_scale_inv", {2, 4}, dtype::bf16);
  EXPECT_EQ(refusal(fp8), "");
  auto mxfp4 = make_mxfp4();
  mxfp4.tensors.entries().at("model.layers.0.mlp.experts.down_proj_scales").type = dtype::f8_e8m0;
  EXPECT_EQ(refusal(mxfp4), "");
}

TEST(quantised_checkpoint, what_every_row_passes_is_read_with_its_scales) {
  temporary_folder folder;
  auto model = make_fp8();
  model.write(folder);
  auto source = must_open(folder.path());
  const std::string name = source.model().layers.front().shared->down;
  auto values = source.read_f32(name);
  ASSERT_TRUE(values) << values.error().message;
  const auto& numbers = model.tensors.entries().at(name);
  std::vector<float> scales(numbers.bytes.size());
  const auto& scale_bytes = model.tensors.entries().at(name + "_scale_inv").bytes;
  std::memcpy(scales.data(), scale_bytes.data(), scale_bytes.size());
  const std::size_t in = numbers.shape[1], columns = (in + 2) / 3;
  ASSERT_EQ(values->size(), numbers.bytes.size());
  for (std::size_t i = 0; i < values->size(); ++i) {
    const float number = e4m3_to_f32(std::to_integer<std::uint8_t>(numbers.bytes[i]));
    EXPECT_EQ((*values)[i], number * scales[i / in / 4 * columns + i % in / 3]) << i;
  }
}

TEST(quantised_checkpoint, bf16_experts_may_stand_among_fp8_ones) {
  auto model = make_fp8();
  model.tensors.add(wanted, {7, 11}, dtype::bf16);
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("1 problem"), HasSubstr(wanted), HasSubstr("no scale beside BF16")));
  model.tensors.erase(std::string{wanted} + "_scale_inv");
  for (auto* name : {"gate_proj", "down_proj"}) {
    const auto whole = std::string{"model.layers.1.mlp.experts.2."} + name + ".weight";
    model.tensors.add(whole, model.tensors.entries().at(whole).shape, dtype::bf16);
    model.tensors.erase(whole + "_scale_inv");
  }
  temporary_folder folder;
  model.write(folder);
  auto source = must_open(folder.path());
  EXPECT_EQ(source.model().stored, dtype::bf16) << "what both are meant for";
}

// -- what is refused --------------------------------------------------------------------------------------------------

TEST(quantised_refusals, name_every_scale_that_is_missing_or_wrong) {
  auto model = make_fp8();
  const std::string prefix = "model.layers.2.mlp.experts.";
  model.tensors.erase(prefix + "0.gate_proj.weight_scale_inv");
  model.tensors.add(prefix + "1.up_proj.weight_scale_inv", {4, 2});
  model.tensors.add_bytes(prefix + "3.down_proj.weight_scale_inv", {3, 3}, dtype::u8);
  model.tensors.erase("model.layers.1.mlp.shared_experts.up_proj.weight_scale_inv");
  EXPECT_THAT(refusal(model),
              AllOf(HasSubstr("4 problems"), HasSubstr(prefix + "0.gate_proj.weight_scale_inv"), HasSubstr("missing"),
                    HasSubstr(prefix + "1.up_proj.weight_scale_inv"), HasSubstr("[4, 2] F32"), HasSubstr("[2, 4]"),
                    HasSubstr(prefix + "3.down_proj.weight_scale_inv"), HasSubstr("[3, 3] U8"),
                    HasSubstr("shared_experts.up_proj.weight_scale_inv")));
}

TEST(quantised_refusals, name_missing_and_misshapen_tensors_of_mxfp4) {
  auto model = make_mxfp4();
  model.tensors.erase("model.layers.0.mlp.experts.gate_up_proj_scales");
  auto message = refusal(model);
  EXPECT_THAT(message, AllOf(HasSubstr("1 problem"), HasSubstr("gate_up_proj_scales"), HasSubstr("[5, 64, 2]")));
  model = make_mxfp4();
  model.tensors.add("model.layers.0.mlp.experts.down_proj_blocks", {5, 64, 16}, dtype::bf16);
  EXPECT_THAT(refusal(model), AllOf(HasSubstr("[5, 64, 1, 16] U8"), HasSubstr("[5, 64, 16] BF16")));
}

TEST(quantised_refusals, half_a_block_of_mxfp4_is_nowhere_defined) {
  EXPECT_THAT(refusal(make_mxfp4(48, 32)),
              AllOf(HasSubstr("hidden_size"), HasSubstr("a multiple of 32"), HasSubstr("48")));
  EXPECT_THAT(refusal(make_mxfp4(32, 33)), AllOf(HasSubstr("intermediate_size"), HasSubstr("33")));
}

TEST(quantised_refusals, config_says_which_scales_there_are) {
  const auto with = [](const nlohmann::json& change) {
    auto model = make_fp8();
    model.config["quantization_config"].update(change);
    return refusal(model);
  };
  for (const auto& sizes : {nlohmann::json{128}, nlohmann::json{0, 3}, nlohmann::json{4, 3, 1}, nlohmann::json{4, -3},
                            nlohmann::json("4x3"), nlohmann::json(nullptr)}) {
    EXPECT_THAT(with({{"weight_block_size", sizes}}), HasSubstr("quantization_config.weight_block_size")) << sizes;
  }
  EXPECT_THAT(with({{"fmt", "e5m2"}}), AllOf(HasSubstr("quantization_config.fmt"), HasSubstr("e5m2")));
  EXPECT_THAT(with({{"quant_method", "gptq"}}), AllOf(HasSubstr("gptq"), HasSubstr("fp8"), HasSubstr("to BF16")));
  auto model = make_fp8();
  model.config.erase("quantization_config");
  EXPECT_THAT(refusal(model), AllOf(HasSubstr(wanted), HasSubstr("F8_E4M3"), HasSubstr("F32, F16 or BF16")));
}

std::string nonfinite(const family_model& model, std::uint32_t expert) {
  temporary_folder folder;
  model.write(folder);
  auto source = must_open(folder.path());
  const auto& layout = source.model().layers.front().experts[expert];
  std::vector<std::byte> bytes(layout.bytes());
  EXPECT_TRUE(source.read_bundle(layout, bytes));
  auto finite = check_finite(layout, bytes);
  return finite ? "" : finite.error().message;
}

TEST(quantised_refusals, c5_numbers_scales_and_what_they_make_must_be_finite) {
  const std::string scales = std::string{wanted} + "_scale_inv";
  EXPECT_EQ(nonfinite(make_fp8(), 2), "");
  for (unsigned nan : {0x7fU, 0xffU}) {
    auto model = make_fp8();
    model.tensors.entries().at(wanted).bytes[13] = static_cast<std::byte>(nan);
    EXPECT_THAT(nonfinite(model, 2), AllOf(HasSubstr("element 13"), HasSubstr("\"" + std::string{wanted} + "\"")));
    EXPECT_EQ(nonfinite(model, 1), "");
  }
  for (float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto model = make_fp8();
    model.tensors.set(scales, {1, 1, 1, 1, broken, 1, 1, 1});
    EXPECT_THAT(nonfinite(model, 2), AllOf(HasSubstr("element 4"), HasSubstr("\"" + scales + "\"")));
  }
  auto model = make_fp8();
  model.tensors.set(scales, {1, 3e38F, 1, 1, 1, 1, 1, 1});
  model.tensors.entries().at(wanted).bytes[4] = std::byte{0x7e};
  EXPECT_THAT(nonfinite(model, 2), AllOf(HasSubstr("\"" + std::string{wanted} + "\""), Not(HasSubstr("scale_inv"))));
}

TEST(quantised_refusals, c5_scales_of_mxfp4_must_be_numbers) {
  EXPECT_EQ(nonfinite(make_mxfp4(), 4), "");
  auto model = make_mxfp4();
  const std::string scales = "model.layers.0.mlp.experts.down_proj_scales";
  model.tensors.entries().at(scales).bytes[4 * 64 + 7] = std::byte{255};
  EXPECT_THAT(nonfinite(model, 4), AllOf(HasSubstr("element 7"), HasSubstr(scales)));
  EXPECT_EQ(nonfinite(model, 3), "");
  model.tensors.entries().at(scales).bytes[4 * 64 + 7] = std::byte{254};  // 2^127
  auto& blocks = model.tensors.entries().at("model.layers.0.mlp.experts.down_proj_blocks").bytes;
  std::fill_n(blocks.begin() + (4 * 64 + 7) * 16, 16, std::byte{0x21});  // 0.5 and 1
  EXPECT_EQ(nonfinite(model, 4), "");
  blocks[(4 * 64 + 7) * 16 + 2] = std::byte{0x07};  // 6 x 2^127
  EXPECT_THAT(nonfinite(model, 4),
              AllOf(HasSubstr("element " + std::to_string(7 * 32 + 4)), HasSubstr("down_proj_blocks")));
}

TEST(quantised_refusals, c5_verify_names_scales_outside_of_experts_too) {
  auto model = make_fp8();
  const std::string name = "model.layers.1.mlp.shared_experts.gate_proj.weight";
  model.tensors.entries().at(name).bytes[0] = std::byte{0xff};
  temporary_folder folder;
  model.write(folder);
  auto report = verify(must_open(folder.path()));
  ASSERT_TRUE(report);
  ASSERT_EQ(report->problems.size(), 1U);
  EXPECT_THAT(report->problems[0].message, HasSubstr(name));
}

}  // namespace
}  // namespace troupe::model::test
