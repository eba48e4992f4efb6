// Logits and greedy texts of the decoder families' goldens, in one piece, in ragged chunks, and side by side.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <tuple>

#include <nlohmann/json.hpp>

#include "compute/product.hpp"
#include "tests/model/golden_file.hpp"
#include "tests/router_node/trunk/reference_decoder.hpp"

namespace troupe::router::test {
namespace {

using model::test::golden_file;
using model::test::golden_folder;

double tolerance_of(dtype type) { return type == dtype::f32 ? 1e-4 : 4e-2; }

struct greedy_case {
  std::vector<token_number> prompt;
  std::vector<token_number> answer;
};

struct golden_case {
  std::filesystem::path folder;
  std::vector<token_number> prompt;
  std::vector<float> logits;
  std::vector<greedy_case> texts;
};

golden_case read_case(const std::filesystem::path& folder) {
  golden_case read;
  read.folder = folder;
  golden_file logits{folder / "logits.safetensors"};
  for (auto id : logits.integers("prompt_ids")) read.prompt.push_back(static_cast<token_number>(id));
  read.logits = logits.floats("logits");
  std::ifstream file{folder / "generation.json"};
  auto generation = nlohmann::json::parse(file);
  for (const auto& one : generation.at("cases")) {
    read.texts.push_back(
        {one.at("prompt_ids").get<std::vector<token_number>>(), one.at("greedy_ids").get<std::vector<token_number>>()});
  }
  return read;
}

class golden_text : public ::testing::TestWithParam<std::tuple<std::string, dtype>> {
 protected:
  [[nodiscard]] static golden_case golden() {
    auto name = std::get<0>(GetParam());
    bool small = name.starts_with("trunk_");
    return read_case(small ? std::filesystem::path{TROUPE_SOURCE_DIR} / "tests/golden/trunk" / name.substr(6)
                           : golden_folder(name));
  }
  [[nodiscard]] static dtype type() { return std::get<1>(GetParam()); }
};

TEST_P(golden_text, logits_of_one_piece) {
  auto known = golden();
  reference_decoder decoder{known.folder, type()};
  sequence s{known.prompt, 0, {}};
  auto logits = decoder.step(s, static_cast<std::uint32_t>(s.tokens.size()));
  EXPECT_LE(share_of_peak(logits, known.logits), tolerance_of(type()));
}

TEST_P(golden_text, logits_of_ragged_pieces) {
  auto known = golden();
  reference_decoder decoder{known.folder, type()};
  sequence s{known.prompt, 0, {}};
  std::vector<float> logits;
  for (std::uint32_t size = 1; s.computed < s.tokens.size(); size = size % 13 + 4) {
    auto part = decoder.step(s, std::min(size, static_cast<std::uint32_t>(s.tokens.size()) - s.computed));
    logits.insert(logits.end(), part.begin(), part.end());
  }
  EXPECT_LE(share_of_peak(logits, known.logits), tolerance_of(type()));
}

// All prompts in one step, each next step a token of every text.
TEST_P(golden_text, greedy_texts_side_by_side) {
  auto known = golden();
  reference_decoder decoder{known.folder, type()};
  std::vector<sequence> texts;
  for (const auto& text : known.texts) texts.push_back({text.prompt, 0, {}});
  std::size_t tokens = known.texts.front().answer.size();
  for (std::size_t i = 0; i < tokens; ++i) {
    std::vector<step_piece> pieces;
    for (auto& text : texts) pieces.push_back({&text, static_cast<std::uint32_t>(text.tokens.size()) - text.computed});
    auto logits = decoder.step(pieces);
    std::size_t end = 0;
    for (const auto& piece : pieces) {
      end += piece.rows;
      decoder.append_greedy(*piece.of, std::span{logits}.first(end * decoder.under_test().vocabulary()));
    }
  }
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto& text = known.texts[i];
    std::vector<token_number> answer(texts[i].tokens.begin() + static_cast<std::ptrdiff_t>(text.prompt.size()),
                                     texts[i].tokens.end());
    // In bf16 another token may be the likeliest, but then it is so without neighbours, too.
    sequence alone{text.prompt, 0, {}};
    auto expected = type() == dtype::f32
                        ? text.answer
                        : decoder.continue_greedily(alone, static_cast<std::uint32_t>(text.answer.size()));
    EXPECT_EQ(answer, expected) << "prompt of " << text.prompt.size();
  }
}

// The same bits whatever else is in the step: alone, token by token, and among texts of other lengths.
TEST_P(golden_text, rows_do_not_see_their_neighbours) {
  if (compute::describe_processor_path().ends_with("no AVX-512")) GTEST_SKIP() << "oneDNN's sums depend on the rows";
  auto known = golden();
  reference_decoder decoder{known.folder, type()};
  sequence whole{known.prompt, 0, {}};
  auto logits = decoder.step(whole, static_cast<std::uint32_t>(known.prompt.size()));
  std::vector<sequence> others(11);
  for (std::size_t i = 0; i < others.size(); ++i) {
    others[i].tokens.assign(known.prompt.begin(), known.prompt.begin() + static_cast<std::ptrdiff_t>(1 + i));
  }
  sequence slow{known.prompt, 0, {}};
  std::vector<float> slow_logits;
  while (slow.computed < slow.tokens.size()) {
    std::vector<step_piece> pieces{{&slow, 1}};
    for (std::size_t i = 0; i < slow.computed % (others.size() + 1); ++i) {
      others[i].computed = 0;
      pieces.push_back({&others[i], static_cast<std::uint32_t>(others[i].tokens.size())});
    }
    auto step = decoder.step(pieces);
    slow_logits.insert(slow_logits.end(), step.begin(), step.begin() + decoder.under_test().vocabulary());
  }
  EXPECT_EQ(slow_logits, logits);
}

// The last ones are small models for what the families' own do not have: tests/golden/make_trunk_goldens.py.
const auto case_names =
    ::testing::Values("mixtral", "qwen2_moe", "qwen3_moe", "qwen3_moe_fp8", "olmoe", "trunk_mixtral_window_tied",
                      "trunk_mixtral_linear_wide_heads", "trunk_mixtral_dynamic", "trunk_qwen2_moe_window_yarn_dense",
                      "trunk_qwen2_moe_plain_yarn", "trunk_qwen3_moe_llama3_bias_dense", "trunk_qwen3_moe_window",
                      "trunk_olmoe_clip_bias_groups");

INSTANTIATE_TEST_SUITE_P(families, golden_text,
                         ::testing::Combine(case_names, ::testing::Values(dtype::f32, dtype::bf16)),
                         [](const auto& which) {
                           return std::get<0>(which.param) + "_" + std::string{to_string(std::get<1>(which.param))};
                         });

}  // namespace
}  // namespace troupe::router::test
