// expert-digests.json (faults.md C4) and what inspect and verify say.
#include "model/manifest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <limits>

#include "model/inspect.hpp"
#include "tests/model/family_models.hpp"

namespace troupe::model::test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Overwrites one byte in the middle of an expert's first tensor.
void rot(const checkpoint& source, const expert_id& expert) {
  const auto& tensor = source.model().find(expert)->tensors.front();
  std::fstream stream{source.files()[tensor.file], std::ios::in | std::ios::out | std::ios::binary};
  auto place = static_cast<std::streamoff>(tensor.offset + tensor.bytes / 2);
  stream.seekg(place);
  auto byte = static_cast<char>(stream.get() ^ 1);
  stream.seekp(place);
  stream.put(byte);
}

class manifest : public ::testing::Test {
 protected:
  manifest() { make_model("qwen2_moe").write(folder); }

  void write_digests() const {
    auto source = must_open(folder.path());
    auto report = verify(source);
    ASSERT_TRUE(report);
    ASSERT_TRUE(write_manifest(folder.path(), report->digests));
  }
  nlohmann::json read_json() const {
    std::ifstream stream{folder.path() / "expert-digests.json"};
    return nlohmann::json::parse(stream);
  }
  std::string refusal() const {
    auto read = read_manifest(folder.path(), must_open(folder.path()).model());
    return read ? "accepted" : read.error().message;
  }

  temporary_folder folder;
};

TEST_F(manifest, a_folder_without_one_is_fine) {
  auto read = read_manifest(folder.path(), must_open(folder.path()).model());
  ASSERT_TRUE(read);
  EXPECT_FALSE(read->has_value());
}

TEST_F(manifest, is_written_and_read_back) {
  write_digests();
  auto source = must_open(folder.path());
  auto read = read_manifest(folder.path(), source.model());
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ((*read)->digests.size(), 15U);
  EXPECT_EQ((*read)->fingerprint, source.model().fingerprint);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "expert-digests.json.tmp"));
  auto report = verify(source);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->had_manifest);
  EXPECT_TRUE(report->problems.empty());
  EXPECT_EQ(report->digests.digests, (*read)->digests);
}

TEST_F(manifest, c4_rotten_bytes_are_found_and_named) {
  write_digests();
  auto source = must_open(folder.path());
  expert_id victim{layer_id::of(2), 4};
  rot(source, victim);
  auto report = verify(source);
  ASSERT_TRUE(report);
  ASSERT_EQ(report->problems.size(), 1U);
  EXPECT_EQ(report->problems[0].code, errc::corrupt);
  EXPECT_THAT(report->problems[0].message,
              AllOf(HasSubstr("expert 2/4"), HasSubstr(to_hex(report->digests.digests.at(victim)))));
}

TEST_F(manifest, of_other_files_is_refused) {
  write_digests();
  auto model = make_model("qwen2_moe");
  model.tensors.add("model.norm.weight", {11});
  model.write(folder);
  auto read = read_manifest(folder.path(), must_open(folder.path()).model());
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, errc::conflict);
  EXPECT_THAT(read.error().message, AllOf(HasSubstr("other files"), HasSubstr("verify --write")));
  auto report = verify(must_open(folder.path()));  // says so, and still computes what can be written anew
  ASSERT_TRUE(report);
  EXPECT_FALSE(report->had_manifest);
  EXPECT_EQ(report->problems.size(), 1U);
  EXPECT_EQ(report->digests.digests.size(), 15U);
}

TEST_F(manifest, lists_everything_that_is_wrong_with_it) {
  write_digests();
  auto document = read_json();
  document["digests"].erase("0/0");
  document["digests"]["1/2"] = "abc";
  document["digests"]["9/0"] = std::string(64, 'a');
  document["digests"]["nonsense"] = 3;
  folder.write("expert-digests.json", document.dump());
  EXPECT_THAT(refusal(), AllOf(HasSubstr("4 problems"), HasSubstr("0/0"), HasSubstr("1/2"), HasSubstr("9/0"),
                               HasSubstr("nonsense")));
}

TEST_F(manifest, of_another_form_is_refused) {
  for (auto text : {"", "[]", "{}", R"({"format": 2, "digests": {}})", R"({"format": "1", "digests": {}})",
                    R"({"format": 1})", R"({"format": 1, "digests": []})"}) {
    folder.write("expert-digests.json", text);
    EXPECT_THAT(refusal(), HasSubstr("expert-digests.json")) << text;
  }
}

TEST_F(manifest, c15_outside_the_folder_is_refused) {
  write_digests();
  temporary_folder elsewhere;
  std::filesystem::rename(folder.path() / "expert-digests.json", elsewhere.path() / "digests");
  std::filesystem::create_symlink(elsewhere.path() / "digests", folder.path() / "expert-digests.json");
  EXPECT_THAT(refusal(), HasSubstr("outside the model folder"));
}

TEST_F(manifest, cannot_be_written_where_there_is_no_folder) {
  auto written = write_manifest(folder.path() / "absent", {});
  ASSERT_FALSE(written);
  EXPECT_THAT(written.error().message, HasSubstr("cannot create"));
}

TEST(inspect, sums_up_what_is_in_a_checkpoint) {
  temporary_folder folder;
  auto model = make_model("deepseek_v2");
  folder.write("config.json", model.config.dump());
  model.tensors.write_shards(folder, 3);
  auto summary = summarise(must_open(folder.path()));
  EXPECT_EQ(summary.family, "deepseek_v2");
  EXPECT_EQ(summary.hidden, 11U);
  EXPECT_EQ(summary.stored, dtype::bf16);
  EXPECT_EQ(summary.files, 3U);
  EXPECT_EQ(summary.experts, 10U);
  EXPECT_EQ(summary.expert_bytes, 10U * 3 * 7 * 11 * 2);
  EXPECT_GT(summary.file_bytes, summary.expert_bytes);
  ASSERT_EQ(summary.layers.size(), 2U);
  EXPECT_EQ(to_string(summary.layers[0].id), "1");
  EXPECT_EQ(summary.layers[0].experts, 5U);
  EXPECT_EQ(summary.layers[0].top_k, 3U);
  EXPECT_EQ(summary.layers[0].bytes_per_expert, 3U * 7 * 11 * 2);
  EXPECT_EQ(summary.layers[0].shared_width, 14U);
}

TEST(inspect, verify_reports_progress_to_the_end_and_stops_when_told) {
  temporary_folder folder;
  make_model("mixtral").write(folder);
  auto source = must_open(folder.path());
  std::vector<verify_progress> seen;
  ASSERT_TRUE(verify(source, [&](const verify_progress& p) {
    seen.push_back(p);
    return true;
  }));
  ASSERT_EQ(seen.size(), 15U);
  EXPECT_EQ(seen.back().experts_done, seen.back().experts_total);
  EXPECT_EQ(seen.back().bytes_done, seen.back().bytes_total);
  EXPECT_LT(seen.front().bytes_done, seen.back().bytes_done);
  auto stopped = verify(source, [](const verify_progress& p) { return p.experts_done < 4; });
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, errc::cancelled);
  EXPECT_THAT(stopped.error().message, HasSubstr("4 of 15"));
}

TEST(inspect, verify_names_every_tensor_that_is_not_finite_c5) {
  auto model = make_model("qwen2_moe", {.type = dtype::f32});
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  model.tensors.set("model.layers.0.mlp.gate.weight", std::vector<float>(55, nan));
  model.tensors.set("model.layers.1.mlp.shared_expert.up_proj.weight", std::vector<float>(143, nan));
  model.tensors.set("model.layers.2.mlp.experts.1.down_proj.weight", std::vector<float>(77, nan));
  temporary_folder folder;
  model.write(folder);
  auto report = verify(must_open(folder.path()));
  ASSERT_TRUE(report);
  ASSERT_EQ(report->problems.size(), 3U);
  EXPECT_THAT(report->problems[0].message, HasSubstr("model.layers.0.mlp.gate.weight"));
  EXPECT_THAT(report->problems[1].message, HasSubstr("model.layers.1.mlp.shared_expert.up_proj.weight"));
  EXPECT_THAT(report->problems[2].message, AllOf(HasSubstr("expert 2/1"), HasSubstr("element 0")));
}

}  // namespace
}  // namespace troupe::model::test
