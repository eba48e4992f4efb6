// What is read from tokenizer files, what is refused, and that a refusal names the construct.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/tokenizer/regex_dialect.hpp"
#include "tests/model/tokenizer_cases.hpp"

namespace troupe::model::test {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// a, b, ab and two special tokens; cut into nothing, joined by blanks.
json small_document() {
  return json::parse(R"({
    "version": "1.0",
    "added_tokens": [{"id": 3, "content": "<s>", "special": true, "normalized": false},
                     {"id": 4, "content": "</s>", "special": true, "normalized": false}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}})");
}

std::unique_ptr<const tokenizer> must_parse(const json& document) {
  auto made = tokenizer::parse(document.dump());
  if (!made) throw std::runtime_error(made.error().message);
  return std::move(*made);
}

std::string refusal(const json& document) {
  auto made = tokenizer::parse(document.dump());
  if (made) return "accepted";
  EXPECT_EQ(made.error().code, errc::invalid_request);
  return made.error().message;
}

json with(const char* key, json value) {
  auto document = small_document();
  document[key] = std::move(value);
  return document;
}

json with_model(const char* key, json value) {
  auto document = small_document();
  document["model"][key] = std::move(value);
  return document;
}

TEST(tokenizer_file, tells_about_its_tokens) {
  auto made = must_parse(small_document());
  EXPECT_EQ(made->size(), 5U);
  EXPECT_EQ(made->find("ab"), 2U);
  EXPECT_EQ(made->find("<s>"), 3U);
  EXPECT_EQ(made->find("c"), std::nullopt);
  EXPECT_EQ(made->piece(4), "</s>");
  EXPECT_EQ(made->piece(5), "");
  EXPECT_TRUE(made->is_special(3));
  EXPECT_FALSE(made->is_special(2));
  EXPECT_THAT(made->encode("ab<s>bab", true), ElementsAre(2, 3, 1, 2));
  EXPECT_EQ(made->decode(std::vector<token_number>{2, 3, 1, 77}, false), "ab <s> b");
  EXPECT_EQ(made->decode(std::vector<token_number>{2, 3, 1, 77}, true), "ab b");
}

TEST(tokenizer_file, takes_merges_in_both_forms) {
  auto lines = with_model("merges", json::array({"#version: 0.2", "a b"}));
  EXPECT_THAT(must_parse(lines)->encode("aabb", false), ElementsAre(0, 2, 1));
}

// Then nothing is known about where texts can be joined apart.
TEST(tokenizer_file, an_unknown_token_may_itself_be_made_by_a_merge) {
  auto made = must_parse(with_model("unk_token", "ab"));
  EXPECT_THAT(made->encode("cabac", false), ElementsAre(2, 2, 0, 2));
}

TEST(tokenizer_file, an_incomplete_folder_is_not_found) {
  auto folder = std::filesystem::path{testing::TempDir()} / "no_tokenizer";
  std::filesystem::create_directories(folder);
  auto opened = tokenizer::open(folder);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, errc::not_found);
  EXPECT_THAT(opened.error().message, HasSubstr("neither tokenizer.json nor tokenizer.model"));
}

TEST(tokenizer_file, bytes_of_tokens_are_those_of_the_text) {
  auto byte_level = must_open_tokenizer(golden_path("tokenizers/qwen"));
  EXPECT_EQ(byte_level->bytes_of(*byte_level->find("Ġreturn")), " return");
  EXPECT_EQ(byte_level->bytes_of(*byte_level->find("Ã")), "\xC3");
  EXPECT_EQ(byte_level->bytes_of(*byte_level->find("<|im_end|>")), "<|im_end|>");
  for (const char* folder : {"tokenizers/mixtral", "tokenizers/spm_mixtral"}) {
    auto fallback = must_open_tokenizer(golden_path(folder));
    EXPECT_EQ(fallback->bytes_of(*fallback->find("▁in")), " in") << folder;
    EXPECT_EQ(fallback->bytes_of(*fallback->find("<0xE4>")), "\xE4") << folder;
    EXPECT_EQ(fallback->bytes_of(*fallback->find("</s>")), "</s>") << folder;
  }
}

TEST(tokenizer_file, every_unsupported_construct_is_named) {
  EXPECT_THAT(refusal(with("normalizer", {{"type", "BertNormalizer"}})), HasSubstr("BertNormalizer"));
  EXPECT_THAT(refusal(with("pre_tokenizer", {{"type", "UnicodeScripts"}})), HasSubstr("UnicodeScripts"));
  EXPECT_THAT(refusal(with("decoder", {{"type", "WordPiece"}})), HasSubstr("WordPiece"));
  EXPECT_THAT(refusal(with("post_processor", {{"type", "BertProcessing"}})), HasSubstr("BertProcessing"));
  EXPECT_THAT(refusal(with_model("type", "Unigram")), HasSubstr("Unigram"));
  EXPECT_THAT(refusal(with_model("dropout", 0.1)), HasSubstr("dropout"));
  EXPECT_THAT(refusal(with_model("end_of_word_suffix", "</w>")), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal(with_model("unheard_of", 1)), HasSubstr("model.unheard_of"));
  EXPECT_THAT(refusal(with("version", "2.0")), HasSubstr("2.0"));
}

TEST(tokenizer_file, everything_wrong_is_told_at_once_and_where) {
  auto document =
      with("normalizer", json::parse(R"({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Nmt"}]})"));
  document["decoder"] = {{"type", "CTC"}};
  auto message = refusal(document);
  EXPECT_THAT(message, HasSubstr("normalizer.normalizers[1].type"));
  EXPECT_THAT(message, HasSubstr("decoder.type"));
}

TEST(tokenizer_file, contradictions_are_refused) {
  EXPECT_THAT(refusal(with_model("vocab", {{"a", 0}, {"b", 0}, {"ab", 2}})), HasSubstr("each once"));
  EXPECT_THAT(refusal(with_model("vocab", {{"a", 0}, {"b", 1}, {"ab", limits::token_numbers_max}})), HasSubstr("ab"));
  EXPECT_THAT(refusal(with_model("merges", json::array({json::array({"a", "c"})}))), HasSubstr("merges"));
  EXPECT_THAT(refusal(with_model("merges", json::array({"a b c"}))), HasSubstr("a b c"));
  EXPECT_THAT(refusal(with_model("unk_token", "<unk>")), HasSubstr("unk_token"));
  EXPECT_THAT(refusal(with("added_tokens", json::parse(R"([{"id": 1, "content": "<s>"}])"))), HasSubstr("<s>"));
  EXPECT_THAT(refusal(with("added_tokens", json::parse(R"([{"id": 9, "content": "a"}])"))),
              HasSubstr("added_tokens[0]"));
  EXPECT_THAT(refusal(with("post_processor", json::parse(R"({"type": "TemplateProcessing", "single":
              [{"SpecialToken": {"id": "<x>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]})"))),
              HasSubstr("<x>"));
  EXPECT_THAT(refusal(with("post_processor", json::parse(R"({"type": "TemplateProcessing", "single":
              [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
              "special_tokens": {"<s>": {"id": "<s>", "ids": [77], "tokens": ["<s>"]}}})"))),
              HasSubstr("special_tokens"));
  EXPECT_EQ(tokenizer::parse("[1").error().code, errc::invalid_request);
}

TEST(tokenizer_file, a_file_that_makes_texts_explode_is_refused) {
  auto twice = json::parse(R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})");
  EXPECT_THAT(refusal(with("normalizer", {{"type", "Sequence"}, {"normalizers", json::array_t(40, twice)}})),
              HasSubstr("times as long"));
  EXPECT_THAT(refusal(with("decoder", {{"type", "Sequence"}, {"decoders", json::array_t(40, twice)}})),
              HasSubstr("times as long"));
}

TEST(tokenizer_file, a_damaged_sentencepiece_model_is_refused) {
  std::ifstream file{golden_path("tokenizers/spm_unigram/tokenizer.model"), std::ios::binary};
  std::string bytes{std::istreambuf_iterator<char>{file}, {}};
  ASSERT_TRUE(tokenizer::parse_sentencepiece(bytes));
  for (std::size_t size : {std::size_t{0}, std::size_t{1}, bytes.size() / 2, bytes.size() - 1}) {
    auto made = tokenizer::parse_sentencepiece(std::string_view{bytes}.substr(0, size));
    ASSERT_FALSE(made) << size;
    EXPECT_EQ(made.error().code, errc::invalid_request);
  }
}

TEST(tokenizer_file, borders_of_a_sentencepiece_model_come_from_the_configuration) {
  auto folder = std::filesystem::path{testing::TempDir()} / "borders";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  std::filesystem::copy(golden_path("tokenizers/spm_mixtral/tokenizer.model"), folder / "tokenizer.model");
  EXPECT_THAT(must_open_tokenizer(folder)->encode("", true), ElementsAre(1));
  std::ofstream{folder / "tokenizer_config.json"} << R"({"add_bos_token": false, "add_eos_token": true})";
  EXPECT_THAT(must_open_tokenizer(folder)->encode("", true), ElementsAre(2));
}

TEST(regex_dialect, says_the_same_in_other_words) {
  EXPECT_EQ(to_pcre2(R"(\s+(?!\S)|\d{,3}|a{1,2}?|{)").value(),
            R"([\t-\r\x{85}\p{Z}]+(?![^\t-\r\x{85}\p{Z}])|\p{Nd}{0,3}|a{1,2}?|\{)");
  EXPECT_EQ(to_pcre2(R"([^\s\p{L}\-\]]\u00e9\x41\v)").value(), R"([^\t-\r\x{85}\p{Z}\p{L}\-\]]\x{00e9}\x{41}\x{0b})");
}

TEST(regex_dialect, names_what_the_libraries_understand_differently) {
  for (const char* expression : {R"(\h)", R"((a)\1)", "(?R)", "(?<n>a)", "(*FAIL)", "[a[b]]", "[a&&b]", "[]a]", "[a",
                                 R"(\bword)", "a{2}+", "a{2}?", "a(?i)b", R"(\xe9)", R"(\p{L)", "(?m:a)", "\\"}) {
    auto translated = to_pcre2(expression);
    ASSERT_FALSE(translated) << expression << " became " << *translated;
    EXPECT_THAT(translated.error().message, HasSubstr("is not supported"));
  }
}

}  // namespace
}  // namespace troupe::model::test
