// Streams of text: whole characters, the same text as decoding at once, and going on where another stream ended.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <span>

#include "tests/model/tokenizer_cases.hpp"

namespace troupe::model::test {
namespace {

class stream_of : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<const tokenizer> tokens_ = must_open_tokenizer(golden_path("tokenizers/" + GetParam()));

  std::vector<token_number> random_tokens(std::mt19937& random, std::size_t count) const {
    std::vector<token_number> drawn(count);
    for (auto& token : drawn) token = static_cast<token_number>(random() % tokens_->size());
    return drawn;
  }
};

TEST_P(stream_of, random_tokens_is_what_decoding_makes_of_them) {
  std::mt19937 random{7};
  for (int round = 0; round < 300; ++round) {
    auto drawn = random_tokens(random, 1 + random() % 40);
    EXPECT_EQ(stream(*tokens_, drawn, round % 2 == 0), tokens_->decode(drawn, round % 2 == 0))
        << testing::PrintToString(drawn);
  }
}

TEST_P(stream_of, a_primed_stream_goes_on_where_the_other_ended) {
  std::mt19937 random{8};
  for (int round = 0; round < 100; ++round) {
    auto drawn = random_tokens(random, 20);
    std::span first{drawn.begin(), drawn.begin() + random() % 20};
    std::string text;
    stream_decoder before{*tokens_, true};
    for (auto token : first) text += before.push(token);
    stream_decoder after{*tokens_, true};
    after.prime(first);
    for (auto token : std::span{drawn}.subspan(first.size())) text += after.push(token);
    EXPECT_EQ(text + after.finish(), tokens_->decode(drawn, true)) << testing::PrintToString(drawn);
  }
}

TEST_P(stream_of, a_long_text_comes_back) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += i % 7 == 0 ? "日本 " : i % 3 == 0 ? "def f(x):\n" : "word ";
  text += "end";
  EXPECT_EQ(tokens_->decode(tokens_->encode(text, true), true), text);
}

INSTANTIATE_TEST_SUITE_P(all, stream_of,
                         testing::Values("qwen", "neox", "mixtral", "mixtral_new", "llama3", "spm_mixtral"),
                         [](const auto& style) { return style.param; });

TEST(stream_decoder, holds_a_character_back_until_it_is_complete) {
  auto made = must_open_tokenizer(golden_path("tokenizers/qwen"));
  auto bytes = std::vector{*made->find("ð"), *made->find("Ł"), *made->find("ĺ"), *made->find("Ģ")};  // F0 9F 98 80
  stream_decoder stream{*made, true};
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.push(bytes[1]), "");
  EXPECT_EQ(stream.push(bytes[2]), "");
  EXPECT_EQ(stream.push(bytes[3]), "😀");
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.push(*made->find("a")), "\uFFFDa");
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.finish(), "\uFFFD");
}

TEST(stream_decoder, gives_text_out_token_by_token) {
  for (const char* style : {"mixtral", "spm_mixtral", "qwen"}) {
    auto made = must_open_tokenizer(golden_path(std::string{"tokenizers/"} + style));
    auto tokens = made->encode("return self", false);
    stream_decoder stream{*made, true};
    auto text = stream.push(tokens[0]);  // may be a blank in front, which falls away
    for (auto token : std::span{tokens}.subspan(1)) {
      auto part = stream.push(token);
      EXPECT_NE(part, "") << style;
      text += part;
    }
    EXPECT_EQ(text, "return self") << style;
    EXPECT_EQ(stream.finish(), "") << style;
  }
}

TEST(tokenizer_text, what_is_no_utf8_counts_as_replacement_characters) {
  auto made = must_open_tokenizer(golden_path("tokenizers/qwen"));
  EXPECT_EQ(made->encode("a\xFF\xE4\xBD", false), made->encode("a\uFFFD\uFFFD", false));
}

// Quadratic ways through a text would take hours here.
TEST(tokenizer_text, hard_texts_take_no_more_than_linear_time) {
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  std::string blanks(400'000, ' ');
  for (const char* style : {"qwen", "mixtral", "mixed", "spm_unigram"}) {
    auto made = must_open_tokenizer(golden_path(std::string{"tokenizers/"} + style));
    EXPECT_FALSE(made->encode(marks, false).empty()) << style;
    EXPECT_FALSE(made->encode(blanks + "x", false).empty()) << style;
  }
}

}  // namespace
}  // namespace troupe::model::test
