// What a trunk refuses, and what it tells about itself.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include <nlohmann/json.hpp>

#include "common/limits.hpp"
#include "model/checkpoint.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::router::test {
namespace {

namespace fs = std::filesystem;

const fs::path goldens = fs::path{TROUPE_SOURCE_DIR} / "tests/golden";

// A copy of a golden checkpoint with a changed config.json.
class changed_model {
 public:
  explicit changed_model(const fs::path& source, const std::function<void(nlohmann::json&)>& change)
      : folder_(fs::path{::testing::TempDir()} / fs::path{"trunk_" + std::to_string(number_++)}) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    for (const auto* name : {"config.json", "generation_config.json", "model.safetensors"}) {
      fs::copy_file(source / name, folder_ / name);
    }
    std::ifstream in{folder_ / "config.json"};
    auto config = nlohmann::json::parse(in);
    change(config);
    std::ofstream{folder_ / "config.json"} << config;
  }
  ~changed_model() { fs::remove_all(folder_); }
  changed_model(const changed_model&) = delete;
  changed_model& operator=(const changed_model&) = delete;

  [[nodiscard]] const fs::path& folder() const { return folder_; }

 private:
  static inline int number_ = 0;
  fs::path folder_;
};

result<std::unique_ptr<trunk>> make_trunk(const fs::path& folder, std::uint64_t kv_bytes = limits::mib) {
  auto checkpoint = model::checkpoint::open(folder);
  if (!checkpoint) return fail(checkpoint.error());
  return trunk::make(*checkpoint, {.type = dtype::f32, .threads = 1, .kv_bytes = kv_bytes});
}

// The error of a model whose config.json was changed.
std::string refusal(const std::string& golden, const std::function<void(nlohmann::json&)>& change) {
  changed_model model{goldens / golden, change};
  auto made = make_trunk(model.folder());
  if (made) return "accepted";
  EXPECT_EQ(made.error().code, errc::invalid_request);
  return made.error().message;
}

TEST(trunk, names_the_rope_that_it_does_not_know) {
  auto text = refusal("trunk/qwen3_moe_window", [](auto& config) {
    config["rope_scaling"] = {{"rope_type", "longrope"}, {"factor", 4.0}};
  });
  EXPECT_NE(text.find("rope_scaling.rope_type"), std::string::npos) << text;
  EXPECT_NE(text.find("longrope"), std::string::npos) << text;
  EXPECT_NE(text.find("linear, dynamic, llama3, yarn"), std::string::npos) << text;
}

TEST(trunk, reads_rope_scaling_strictly) {
  auto with = [](nlohmann::json scaling) {
    return refusal("dev/mixtral", [&](auto& config) { config["rope_scaling"] = scaling; });
  };
  EXPECT_NE(with({{"factor", 2.0}}).find("rope_scaling.rope_type"), std::string::npos);
  EXPECT_NE(with({{"type", "linear"}}).find("rope_scaling.factor"), std::string::npos);
  EXPECT_NE(with({{"type", "linear"}, {"factor", -1}}).find("rope_scaling.factor"), std::string::npos);
  EXPECT_NE(with("linear").find("an object"), std::string::npos);
  auto llama3 = with({{"rope_type", "llama3"}, {"factor", 8.0}});
  for (const auto* key : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    EXPECT_NE(llama3.find(key), std::string::npos) << llama3;
  }
  EXPECT_EQ(with({{"type", "linear"}, {"factor", 2}}), "accepted");
  EXPECT_EQ(with(nullptr), "accepted");
}

TEST(trunk, lists_everything_that_is_wrong_at_once) {
  auto text = refusal("dev/qwen2_moe", [](auto& config) {
    config["vocab_size"] = 500;
    config["num_key_value_heads"] = 4;
    config["tie_word_embeddings"] = false;
    config["rope_theta"] = 0.5;
  });
  for (const auto* part : {"model.embed_tokens.weight", "lm_head.weight", "rope_theta",
                           "model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.bias"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

TEST(trunk, refuses_heads_that_do_not_fit) {
  auto odd = refusal("dev/mixtral", [](auto& config) { config["num_key_value_heads"] = 3; });
  EXPECT_NE(odd.find("a divisor of the 4 heads"), std::string::npos) << odd;
  auto wide = refusal("dev/olmoe", [](auto& config) { config["head_dim"] = 32; });
  EXPECT_NE(wide.find("heads that make up the hidden size, 64"), std::string::npos) << wide;
  auto rotary = refusal("dev/mixtral", [](auto& config) { config["partial_rotary_factor"] = 0.1; });
  EXPECT_NE(rotary.find("partial_rotary_factor"), std::string::npos) << rotary;
}

TEST(trunk, serves_only_decoders) {
  auto made = make_trunk(goldens / "dev/switch_transformers");
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("mixtral, olmoe, qwen2_moe, qwen3_moe"), std::string::npos)
      << made.error().message;
  auto checkpoint = model::checkpoint::open(goldens / "dev/switch_transformers");
  ASSERT_TRUE(checkpoint);
  EXPECT_FALSE(trunk::is_supported(checkpoint->model()));
}

TEST(trunk, cuts_its_memory_into_blocks) {
  // 2 layers, 2 KV heads of 16 dims, keys and values of 16 tokens, f32.
  constexpr std::uint64_t block = 2 * 2 * 16 * 2 * 16 * 4;
  auto made = make_trunk(goldens / "dev/mixtral", 10 * block + 1);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ((*made)->kv_blocks(), 10U);
  EXPECT_EQ((*made)->block_tokens(), 16U);
  auto none = make_trunk(goldens / "dev/mixtral", block - 1);
  ASSERT_FALSE(none);
  EXPECT_NE(none.error().message.find(std::to_string(block)), std::string::npos) << none.error().message;
}

TEST(trunk, refuses_rows_without_blocks) {
  auto made = make_trunk(goldens / "dev/mixtral");
  ASSERT_TRUE(made);
  std::vector<float> x(64 * 17);
  std::vector<float> normed(x.size());
  std::vector<std::uint32_t> blocks{0};
  trunk_rows rows{.first_position = 0, .rows = 17, .blocks = blocks};
  EXPECT_FALSE((*made)->attend(0, {&rows, 1}, x.data(), normed.data()));
  blocks = {0, (*made)->kv_blocks()};
  rows.blocks = blocks;
  EXPECT_FALSE((*made)->attend(0, {&rows, 1}, x.data(), normed.data()));
  blocks = {1, 0};
  EXPECT_TRUE((*made)->attend(0, {&rows, 1}, x.data(), normed.data()));
}

TEST(trunk, reads_the_tokens_that_end_an_answer) {
  changed_model model{goldens / "dev/mixtral", [](auto& config) { config["eos_token_id"] = 7; }};
  auto tokens = [&](const char* generation_config) {
    std::ofstream{model.folder() / "generation_config.json"} << generation_config;
    auto made = make_trunk(model.folder());
    return made ? (*made)->eos() : std::vector<token_number>{999};
  };
  EXPECT_EQ(tokens(R"({"eos_token_id": [3, 5]})"), (std::vector<token_number>{3, 5}));
  EXPECT_EQ(tokens(R"({"eos_token_id": 4})"), (std::vector<token_number>{4}));
  EXPECT_EQ(tokens("{}"), (std::vector<token_number>{7}));
  EXPECT_EQ(tokens(R"({"eos_token_id": 512})"), (std::vector<token_number>{999}));
  EXPECT_EQ(tokens(R"({"eos_token_id": "x"})"), (std::vector<token_number>{999}));
  fs::remove(model.folder() / "generation_config.json");
  auto made = make_trunk(model.folder());
  ASSERT_TRUE(made);
  EXPECT_EQ((*made)->eos(), (std::vector<token_number>{7}));
}

TEST(trunk, knows_which_blocks_have_experts_and_how_far_a_rope_reaches) {
  auto dense = make_trunk(goldens / "trunk/qwen2_moe_window_yarn_dense");
  ASSERT_TRUE(dense) << dense.error().message;
  std::vector<bool> moe;
  for (std::uint32_t b = 0; b < (*dense)->layers(); ++b) moe.push_back((*dense)->is_moe(b));
  EXPECT_EQ(moe, (std::vector<bool>{false, true, false, false}));
  EXPECT_EQ((*dense)->context_tokens(), 128U);  // 4 x 32
  auto dynamic = make_trunk(goldens / "trunk/mixtral_dynamic");
  ASSERT_TRUE(dynamic) << dynamic.error().message;
  EXPECT_EQ((*dynamic)->context_tokens(), 72U);  // 3 x 24
}

}  // namespace
}  // namespace troupe::router::test
