// Opening checkpoint folders: shards, bundles, and the refusals of faults.md C1-C3, C5, C6, C14, C15.
#include "model/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <iterator>
#include <limits>
#include <stdexcept>

#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string refusal(const fs::path& folder) {
  auto opened = checkpoint::open(folder);
  return opened ? "accepted" : opened.error().message;
}

checkpoint must_open(const fs::path& folder) {
  auto opened = checkpoint::open(folder);
  if (!opened) throw std::runtime_error(opened.error().message);
  return std::move(*opened);
}

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
  auto message = refusal(folder.path());
  for (const auto& name : used) EXPECT_THAT(message, HasSubstr(name));
  EXPECT_THAT(message, AllOf(HasSubstr("expected"), HasSubstr("found"), HasSubstr("missing")));
}

INSTANTIATE_TEST_SUITE_P(families, every_family, ::testing::ValuesIn(all_families()),
                         [](const auto& family) { return family.param; });

// -- C1, C2: one bad file in a folder ---------------------------------------------------------------------------------

TEST(checkpoint_c1, names_the_file_that_is_not_safetensors) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  folder.write("model.safetensors", "short");
  EXPECT_THAT(refusal(folder.path()),
              AllOf(HasSubstr("model.safetensors: not a safetensors file"), HasSubstr("5 bytes")));
}

TEST(checkpoint_c2, names_the_file_and_the_tensor_of_a_truncated_file) {
  auto model = make_model("mixtral");
  auto document = model.tensors.document();
  document.resize(document.size() - 3);
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  folder.write("model.safetensors", document);
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("model.safetensors: tensor \""), HasSubstr("truncated")));
}

TEST(checkpoint_c2, a_file_that_shrinks_after_it_was_opened_gives_an_error) {
  temporary_folder folder;
  make_model("mixtral").write(folder);
  auto source = must_open(folder.path());
  fs::resize_file(folder.path() / "model.safetensors", 4000);
  std::vector<std::byte> bytes(source.model().layers.back().experts.back().bytes());
  int failures = 0;
  for (const auto& expert : source.model().layers.back().experts) {
    auto read = source.read_bundle(expert, bytes);
    if (read) continue;
    ++failures;
    EXPECT_EQ(read.error().code, errc::corrupt);
    EXPECT_THAT(read.error().message, HasSubstr("model.safetensors"));
  }
  EXPECT_GT(failures, 0);
}

// -- C3: shards and their index ---------------------------------------------------------------------------------------

class sharded : public ::testing::Test {
 protected:
  sharded() {
    folder.write("config.json", model.config.dump());
    model.tensors.write_shards(folder, 4);
  }
  nlohmann::json index() const {
    std::ifstream stream{folder.path() / "model.safetensors.index.json"};
    return nlohmann::json::parse(stream);
  }
  void write(const nlohmann::json& changed) const { folder.write("model.safetensors.index.json", changed.dump()); }

  family_model model{make_model("olmoe")};
  temporary_folder folder;
};

TEST_F(sharded, c3_all_missing_shards_are_listed_at_once) {
  fs::remove(folder.path() / "model-1.safetensors");
  fs::remove(folder.path() / "model-3.safetensors");
  auto message = refusal(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("model-1.safetensors"), HasSubstr("model-3.safetensors"), HasSubstr("missing")));
  EXPECT_THAT(message, Not(HasSubstr("model-0.safetensors")));
}

TEST_F(sharded, c3_a_missing_and_a_damaged_shard_are_listed_together) {
  fs::remove(folder.path() / "model-1.safetensors");
  folder.write("model-2.safetensors", "rubbish!rubbish");
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("model-1.safetensors"), HasSubstr("model-2.safetensors"),
                                            HasSubstr("not a safetensors file")));
}

TEST_F(sharded, c3_tensors_that_are_missing_extra_or_in_another_shard_are_listed_at_once) {
  auto changed = index();
  auto wrong = changed["weight_map"].begin().key();
  changed["weight_map"][wrong] = "model-3.safetensors";  // it stands in model-0
  changed["weight_map"]["nowhere"] = "model-2.safetensors";
  auto extra = std::prev(changed["weight_map"].end(), 2).key();
  changed["weight_map"].erase(extra);
  write(changed);
  auto message = refusal(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("3 problems"), HasSubstr("nowhere"), HasSubstr(wrong), HasSubstr(extra)));
}

TEST_F(sharded, c3_a_tensor_in_two_shards_is_refused) {
  folder.write("model-3.safetensors", model.tensors.document([](const std::string&) { return true; }));
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("in one shard"), HasSubstr("also in model-3.safetensors")));
}

TEST_F(sharded, c3_an_index_that_is_no_index_is_refused) {
  for (auto text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})",
                    R"({"weight_map": {"a": "x", "a": "y"}})"}) {
    folder.write("model.safetensors.index.json", text);
    EXPECT_THAT(refusal(folder.path()), HasSubstr("model.safetensors.index.json")) << text;
  }
  folder.write("model.safetensors.index.json", std::string(100, '['));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("deeper than 64"));
}

TEST(checkpoint_c3, a_tensor_of_the_wrong_shape_is_listed_with_both_shapes) {
  auto model = make_model("olmoe");
  model.tensors.add("model.layers.1.mlp.experts.2.up_proj.weight", {7, 12}, dtype::bf16);
  model.tensors.add("model.layers.2.mlp.experts.4.down_proj.weight", {7, 11}, dtype::bf16);
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(refusal(folder.path()),
              AllOf(HasSubstr("2 problems"), HasSubstr("model.layers.1.mlp.experts.2.up_proj.weight"),
                    HasSubstr("[7, 11]"), HasSubstr("[7, 12] BF16"),
                    HasSubstr("model.layers.2.mlp.experts.4.down_proj.weight"), HasSubstr("[11, 7]")));
}

// -- C6: config.json against the files
// ----------------------------------------------------------------------------------

TEST(checkpoint_c6, the_table_says_how_many_experts_are_expected_and_found) {
  auto model = make_model("qwen3_moe", {.experts = 60, .layers = 2});
  model.config["num_experts"] = 64;
  temporary_folder folder;
  model.write(folder);
  auto message = refusal(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("model.layers.0.mlp.experts.*"), HasSubstr("64 experts"),
                             HasSubstr("60; no expert 60-63"), HasSubstr("model.layers.1.mlp.experts.*"),
                             HasSubstr("[64, 11]"), HasSubstr("[60, 11] BF16")));
}

TEST(checkpoint_c6, too_many_experts_are_refused_as_well) {
  auto model = make_model("mixtral");
  model.config["num_local_experts"] = 4;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("4 experts"), HasSubstr("5; also expert 4")));
}

TEST(checkpoint_c6, packed_experts_are_counted_by_their_first_dimension) {
  auto model = make_model("gpt_oss");
  model.config["num_local_experts"] = 6;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(refusal(folder.path()),
              AllOf(HasSubstr("experts.gate_up_proj"), HasSubstr("[6, 11, 14]"), HasSubstr("[5, 11, 14] BF16")));
}

TEST(checkpoint_c6, other_hidden_sizes_and_unsupported_dtypes_are_refused) {
  auto model = make_model("mixtral");
  model.config["hidden_size"] = 10;
  model.tensors.add("model.layers.0.block_sparse_moe.experts.1.w2.weight", {11, 7}, dtype::f8_e4m3);
  model.tensors.entries().at("model.layers.0.block_sparse_moe.experts.1.w2.weight").bytes.resize(77);
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("[7, 10]"), HasSubstr("[7, 11] BF16"), HasSubstr("F8_E4M3")));
}

TEST(checkpoint_c6, an_unknown_architecture_is_refused_with_the_known_ones) {
  auto model = make_model("mixtral");
  model.config["model_type"] = "llama";
  temporary_folder folder;
  model.write(folder);
  auto message = refusal(folder.path());
  EXPECT_THAT(message,
              AllOf(HasSubstr("\"llama\""), HasSubstr("mixtral"), HasSubstr("switch_transformers"), HasSubstr("vmoe")));
}

TEST(checkpoint_c6, long_lists_of_problems_are_cut_and_say_so) {
  auto model = make_model("olmoe", {.experts = 64, .layers = 4});
  model.config["hidden_size"] = 12;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("772 problems"), HasSubstr("and 572 more")));
}

// -- C14, C15: what is never opened -----------------------------------------------------------------------------------

TEST(checkpoint_c14, pickled_weights_are_never_loaded) {
  for (auto name : {"pytorch_model.bin", "model.pt", "weights.pth"}) {
    auto model = make_model("mixtral");
    temporary_folder folder;
    folder.write("config.json", model.config.dump());
    folder.write(name, "\x80\x02.");
    EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr(name), HasSubstr("convert to safetensors")));
  }
}

TEST(checkpoint_c14, an_index_of_pickled_shards_is_refused) {
  temporary_folder folder;
  folder.write("config.json", make_model("mixtral").config.dump());
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "pytorch_model-1.bin"}})");
  EXPECT_THAT(refusal(folder.path()), AllOf(HasSubstr("pytorch_model-1.bin"), HasSubstr("convert to safetensors")));
}

TEST(checkpoint_c14, a_folder_without_weights_says_what_is_wanted) {
  temporary_folder folder;
  folder.write("config.json", make_model("mixtral").config.dump());
  EXPECT_THAT(refusal(folder.path()), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  EXPECT_THAT(refusal(folder.path() / "absent"), HasSubstr("not a folder"));
  EXPECT_THAT(refusal(folder.path() / "config.json"), HasSubstr("not a folder"));
}

TEST_F(sharded, c15_shard_names_that_leave_the_folder_are_refused) {
  temporary_folder elsewhere;
  elsewhere.write("model-0.safetensors", model.tensors.document());
  for (const auto& name : {std::string{"../model-0.safetensors"}, (elsewhere.path() / "model-0.safetensors").string(),
                           std::string{"a/../../model-0.safetensors"}, std::string{}}) {
    auto changed = index();
    changed["weight_map"].begin().value() = name;
    write(changed);
    EXPECT_THAT(refusal(folder.path()), HasSubstr("leads out of the model folder")) << name;
  }
}

TEST(checkpoint_c15, symbolic_links_that_leave_the_folder_are_refused) {
  auto model = make_model("mixtral");
  temporary_folder blobs;
  model.write(blobs);
  for (auto name : {"model.safetensors", "config.json"}) {
    temporary_folder snapshot;
    model.write(snapshot);
    fs::remove(snapshot.path() / name);
    fs::create_symlink(blobs.path() / name, snapshot.path() / name);
    EXPECT_THAT(refusal(snapshot.path()),
                AllOf(HasSubstr(name), HasSubstr("outside the model folder"), HasSubstr("cp -rL")));
  }
}

TEST(checkpoint_c15, a_link_to_a_sibling_folder_with_the_same_beginning_is_outside) {
  auto model = make_model("mixtral");
  temporary_folder root;
  fs::create_directories(root.path() / "a");
  root.write("a/config.json", model.config.dump());
  root.write("a-blobs/model.safetensors", model.tensors.document());
  fs::create_symlink(root.path() / "a-blobs/model.safetensors", root.path() / "a/model.safetensors");
  EXPECT_THAT(refusal(root.path() / "a"), HasSubstr("outside the model folder"));
}

TEST(checkpoint_c15, links_inside_the_folder_and_to_the_folder_are_fine) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  model.write(folder);
  fs::rename(folder.path() / "model.safetensors", folder.path() / "blob");
  fs::create_symlink("blob", folder.path() / "model.safetensors");
  EXPECT_EQ(refusal(folder.path()), "accepted");
  temporary_folder other;
  fs::create_directory_symlink(folder.path(), other.path() / "link");
  EXPECT_EQ(refusal(other.path() / "link"), "accepted");
}

TEST(checkpoint_c15, what_is_not_a_plain_file_is_refused_without_waiting_for_it) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  ASSERT_EQ(::mkfifo((folder.path() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(refusal(folder.path()), HasSubstr("not a regular file"));
}

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
