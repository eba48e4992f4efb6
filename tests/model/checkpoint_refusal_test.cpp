// Checkpoint folders that are refused, by their numbers in faults.md: C1-C3, C6, C14, C15.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "model/checkpoint.hpp"
#include "model/problem_list.hpp"
#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// -- C1, C2: one bad file in a folder ---------------------------------------------------------------------------------

TEST(checkpoint_c1, names_the_file_that_is_not_safetensors) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  folder.write("model.safetensors", "short");
  EXPECT_THAT(open_error(folder.path()),
              AllOf(HasSubstr("model.safetensors: not a safetensors file"), HasSubstr("5 bytes")));
}

TEST(checkpoint_c2, names_the_file_and_the_tensor_of_a_truncated_file) {
  auto model = make_model("mixtral");
  auto document = model.tensors.document();
  document.resize(document.size() - 3);
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  folder.write("model.safetensors", document);
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("model.safetensors: tensor \""), HasSubstr("truncated")));
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

TEST(checkpoint_c6, bytes_of_a_config_that_are_no_text_do_not_reach_the_terminal) {
  temporary_folder folder;
  make_model("mixtral").write(folder);
  folder.write("config.json", "\xff\xfe{");
  const auto message = open_error(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("config.json: not valid JSON"), Not(HasSubstr("\xff"))));
}

TEST(printable, keeps_characters_whole_and_replaces_what_is_none) {
  EXPECT_EQ(printable("caf\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80"), "caf\xc3\xa9 \xe6\x97\xa5 \xf0\x9f\x98\x80");
  EXPECT_EQ(printable("\x1b[31m\n\x7f"), "?[31m??");
  EXPECT_EQ(printable("\xff|\xc3|\xc0\xaf|\xed\xa0\x80|\x80"), "?|?|??|???|?");
  const std::string cut(159, 'a');
  EXPECT_EQ(printable(cut + "\xc3\xa9"), cut + "?...") << "a character that is cut through";
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
  auto message = open_error(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("model-1.safetensors"), HasSubstr("model-3.safetensors"), HasSubstr("missing")));
  EXPECT_THAT(message, Not(HasSubstr("model-0.safetensors")));
}

TEST_F(sharded, c3_a_missing_and_a_damaged_shard_are_listed_together) {
  fs::remove(folder.path() / "model-1.safetensors");
  folder.write("model-2.safetensors", "rubbish!rubbish");
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("model-1.safetensors"), HasSubstr("model-2.safetensors"),
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
  auto message = open_error(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("3 problems"), HasSubstr("nowhere"), HasSubstr(wrong), HasSubstr(extra)));
}

TEST_F(sharded, c3_a_tensor_in_two_shards_is_refused) {
  folder.write("model-3.safetensors", model.tensors.document([](const std::string&) { return true; }));
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("in one shard"), HasSubstr("also in model-3.safetensors")));
}

TEST_F(sharded, c3_an_index_that_is_no_index_is_refused) {
  for (auto text : {"", "[]", "{}", R"({"weight_map": []})", R"({"weight_map": {}})", R"({"weight_map": {"a": 1}})",
                    R"({"weight_map": {"a": "x", "a": "y"}})"}) {
    folder.write("model.safetensors.index.json", text);
    EXPECT_THAT(open_error(folder.path()), HasSubstr("model.safetensors.index.json")) << text;
  }
  folder.write("model.safetensors.index.json", std::string(100, '['));
  EXPECT_THAT(open_error(folder.path()), HasSubstr("deeper than 64"));
}

TEST(checkpoint_c3, a_tensor_of_the_wrong_shape_is_listed_with_both_shapes) {
  auto model = make_model("olmoe");
  model.tensors.add("model.layers.1.mlp.experts.2.up_proj.weight", {7, 12}, dtype::bf16);
  model.tensors.add("model.layers.2.mlp.experts.4.down_proj.weight", {7, 11}, dtype::bf16);
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(open_error(folder.path()),
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
  auto message = open_error(folder.path());
  EXPECT_THAT(message, AllOf(HasSubstr("model.layers.0.mlp.experts.*"), HasSubstr("64 experts"),
                             HasSubstr("60; no expert 60-63"), HasSubstr("model.layers.1.mlp.experts.*"),
                             HasSubstr("[64, 11]"), HasSubstr("[60, 11] BF16")));
}

TEST(checkpoint_c6, too_many_experts_are_refused_as_well) {
  auto model = make_model("mixtral");
  model.config["num_local_experts"] = 4;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("4 experts"), HasSubstr("5; also expert 4")));
}

TEST(checkpoint_c6, packed_experts_are_counted_by_their_first_dimension) {
  auto model = make_model("gpt_oss");
  model.config["num_local_experts"] = 6;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(open_error(folder.path()),
              AllOf(HasSubstr("experts.gate_up_proj"), HasSubstr("[6, 11, 14]"), HasSubstr("[5, 11, 14] BF16")));
}

TEST(checkpoint_c6, other_hidden_sizes_and_unsupported_dtypes_are_refused) {
  auto model = make_model("mixtral");
  model.config["hidden_size"] = 10;
  model.tensors.add("model.layers.0.block_sparse_moe.experts.1.w2.weight", {11, 7}, dtype::f8_e4m3);
  model.tensors.entries().at("model.layers.0.block_sparse_moe.experts.1.w2.weight").bytes.resize(77);
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("[7, 10]"), HasSubstr("[7, 11] BF16"), HasSubstr("F8_E4M3")));
}

TEST(checkpoint_c6, an_unknown_architecture_is_refused_with_the_known_ones) {
  auto model = make_model("mixtral");
  model.config["model_type"] = "llama";
  temporary_folder folder;
  model.write(folder);
  auto message = open_error(folder.path());
  EXPECT_THAT(message,
              AllOf(HasSubstr("\"llama\""), HasSubstr("mixtral"), HasSubstr("switch_transformers"), HasSubstr("vmoe")));
}

TEST(checkpoint_c6, long_lists_of_problems_are_cut_and_say_so) {
  auto model = make_model("olmoe", {.experts = 64, .layers = 4});
  model.config["hidden_size"] = 12;
  temporary_folder folder;
  model.write(folder);
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("772 problems"), HasSubstr("and 572 more")));
}

// -- C14, C15: what is never opened -----------------------------------------------------------------------------------

TEST(checkpoint_c14, pickled_weights_are_never_loaded) {
  for (auto name : {"pytorch_model.bin", "model.pt", "weights.pth"}) {
    auto model = make_model("mixtral");
    temporary_folder folder;
    folder.write("config.json", model.config.dump());
    folder.write(name, "\x80\x02.");
    EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr(name), HasSubstr("convert to safetensors")));
  }
}

TEST(checkpoint_c14, an_index_of_pickled_shards_is_refused) {
  temporary_folder folder;
  folder.write("config.json", make_model("mixtral").config.dump());
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "pytorch_model-1.bin"}})");
  EXPECT_THAT(open_error(folder.path()), AllOf(HasSubstr("pytorch_model-1.bin"), HasSubstr("convert to safetensors")));
}

TEST(checkpoint_c14, a_folder_without_weights_says_what_is_wanted) {
  temporary_folder folder;
  folder.write("config.json", make_model("mixtral").config.dump());
  EXPECT_THAT(open_error(folder.path()), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  EXPECT_THAT(open_error(folder.path() / "absent"), HasSubstr("not a folder"));
  EXPECT_THAT(open_error(folder.path() / "config.json"), HasSubstr("not a folder"));
}

TEST_F(sharded, c15_shard_names_that_leave_the_folder_are_refused) {
  temporary_folder elsewhere;
  elsewhere.write("model-0.safetensors", model.tensors.document());
  for (const auto& name : {std::string{"../model-0.safetensors"}, (elsewhere.path() / "model-0.safetensors").string(),
                           std::string{"a/../../model-0.safetensors"}, std::string{}}) {
    auto changed = index();
    changed["weight_map"].begin().value() = name;
    write(changed);
    EXPECT_THAT(open_error(folder.path()), HasSubstr("leads out of the model folder")) << name;
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
    EXPECT_THAT(open_error(snapshot.path()),
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
  EXPECT_THAT(open_error(root.path() / "a"), HasSubstr("outside the model folder"));
}

TEST(checkpoint_c15, links_inside_the_folder_and_to_the_folder_are_fine) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  model.write(folder);
  fs::rename(folder.path() / "model.safetensors", folder.path() / "blob");
  fs::create_symlink("blob", folder.path() / "model.safetensors");
  EXPECT_EQ(open_error(folder.path()), "");
  temporary_folder other;
  fs::create_directory_symlink(folder.path(), other.path() / "link");
  EXPECT_EQ(open_error(other.path() / "link"), "");
}

TEST(checkpoint_c15, what_is_not_a_plain_file_is_refused_without_waiting_for_it) {
  auto model = make_model("mixtral");
  temporary_folder folder;
  folder.write("config.json", model.config.dump());
  ASSERT_EQ(::mkfifo((folder.path() / "model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(open_error(folder.path()), HasSubstr("not a regular file"));
}

}  // namespace
}  // namespace troupe::model::test
