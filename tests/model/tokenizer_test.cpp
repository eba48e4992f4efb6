// Tokenizers against what the libraries that wrote their files make of the same texts. See tests/golden/README.md.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/tokenizer_cases.hpp"

namespace troupe::model::test {
namespace {

void expect_text(const std::string& ours, const std::optional<std::string>& recorded) {
  EXPECT_EQ(ours, recorded.value_or(ours));
}

void expect_same(const tokenizer& ours, const tokenizer_cases& reference) {
  for (const auto& row : reference.texts) {
    SCOPED_TRACE("text: " + row.text);
    EXPECT_EQ(ours.encode(row.text, false), row.tokens);
    EXPECT_EQ(ours.encode(row.text, true), row.with_special);
    expect_text(ours.decode(row.tokens, false), row.decoded);
    expect_text(ours.decode(row.tokens, true), row.decoded_plain);
    EXPECT_EQ(stream(ours, row.with_special, false), ours.decode(row.with_special, false));
  }
  for (const auto& row : reference.decodes) {
    SCOPED_TRACE(testing::PrintToString(row.tokens));
    expect_text(stream(ours, row.tokens, false), row.decoded);
    expect_text(stream(ours, row.tokens, true), row.decoded_plain);
  }
}

TEST(tokenizer_goldens, equal_those_of_transformers) {
  auto reference = read_cases(golden_path("dev/tokenizer/tokenizer_cases.json"));
  ASSERT_EQ(reference.texts.size(), 300U);
  ASSERT_EQ(reference.decodes.size(), 50U);
  expect_same(*must_open_tokenizer(golden_path("dev/tokenizer")), reference);
}

class golden_family : public testing::TestWithParam<std::string> {};

TEST_P(golden_family, has_a_tokenizer) {
  auto opened = must_open_tokenizer(golden_path("dev/" + GetParam()));
  EXPECT_EQ(opened->size(), 512U);
  EXPECT_THAT(opened->encode("hello world", true), testing::ElementsAre(0, 287, 406, 83, 335, 273, 80, 72));
}

INSTANTIATE_TEST_SUITE_P(all, golden_family,
                         testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v2", "deepseek_v3",
                                         "gpt_oss", "switch_transformers"),
                         [](const auto& family) { return family.param; });

class trained_style : public testing::TestWithParam<std::string> {};

TEST_P(trained_style, equals_the_reference_library) {
  auto folder = golden_path("tokenizers/" + GetParam());
  auto reference = read_cases(folder / "cases.json");
  ASSERT_GE(reference.texts.size(), 100U);
  expect_same(*must_open_tokenizer(folder), reference);
}

INSTANTIATE_TEST_SUITE_P(all, trained_style,
                         testing::Values("qwen", "neox", "mixtral", "mixtral_new", "llama3", "mixed", "words",
                                         "spm_mixtral", "spm_unigram"),
                         [](const auto& style) { return style.param; });

}  // namespace
}  // namespace troupe::model::test
