#include "router_node/shell/load_recorder.hpp"

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace troupe::router {
namespace {

using ::testing::HasSubstr;

class load_recording : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "troupe-record-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    file_ = folder_ / "loads.csv";
    model::description model;
    for (const auto block : {1U, 4U}) {
      model::moe_layer layer;
      layer.id = layer_id::of(block);
      layer.gate.num_experts = 4;
      layer.gate.top_k = 2;
      layer.shape.hidden = 8;
      model.layers.push_back(layer);
    }
    plan_ = model_plan::make(model, dtype::f32);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string text() const {
    std::ifstream in{file_};
    std::stringstream all;
    all << in.rdbuf();
    return all.str();
  }
  static void count(load_recorder& recorder, std::uint32_t place, std::vector<std::int32_t> ids) {
    recorder.count(place, ids);
  }

  std::filesystem::path folder_, file_;
  model_plan plan_;
};

TEST_F(load_recording, writes_the_rows_of_each_window_as_simulate_reads_them) {
  {
    auto recorder = load_recorder::open({.file = file_, .window = std::chrono::seconds{10}}, plan_);
    ASSERT_TRUE(recorder) << recorder.error().message;
    count(**recorder, 0, {3, 1, 3, -1});
    (*recorder)->pass(6);
    count(**recorder, 1, {0, 2});
    EXPECT_EQ(text(), "step,layer,expert,load\n");
    (*recorder)->pass(6);
    EXPECT_EQ(text(), "step,layer,expert,load\n0,1,1,1\n0,1,3,2\n0,4,0,1\n0,4,2,1\n");
    (*recorder)->pass(12);  // nothing came in step 1
    count(**recorder, 0, {0});
  }
  EXPECT_EQ(text(), "step,layer,expert,load\n0,1,1,1\n0,1,3,2\n0,4,0,1\n0,4,2,1\n2,1,0,1\n") << "the last part too";
}

TEST_F(load_recording, ends_before_the_file_is_too_long) {
  auto recorder = load_recorder::open({.file = file_, .window = std::chrono::seconds{1}, .rows_max = 3}, plan_);
  ASSERT_TRUE(recorder) << recorder.error().message;
  count(**recorder, 0, {0, 1});
  (*recorder)->pass(1);
  EXPECT_FALSE((*recorder)->is_full());
  count(**recorder, 0, {0, 1});
  (*recorder)->pass(1);
  EXPECT_TRUE((*recorder)->is_full());
  count(**recorder, 0, {0});
  (*recorder)->pass(1);
  EXPECT_EQ(text(), "step,layer,expert,load\n0,1,0,1\n0,1,1,1\n") << "whole steps only";
}

TEST_F(load_recording, neither_writes_over_a_record_nor_into_nowhere) {
  std::ofstream{file_} << "mine";
  const auto again = load_recorder::open({.file = file_}, plan_);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, errc::conflict);
  EXPECT_THAT(again.error().message, HasSubstr("it exists"));
  EXPECT_EQ(text(), "mine");
  const auto nowhere = load_recorder::open({.file = folder_ / "no" / "loads.csv"}, plan_);
  ASSERT_FALSE(nowhere);
  EXPECT_THAT(nowhere.error().message, HasSubstr("cannot be written"));
}

}  // namespace
}  // namespace troupe::router
