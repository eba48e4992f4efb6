#include "expert_node/shell/layout_wire.hpp"

#include <functional>

#include <gtest/gtest.h>

#include "model/checkpoint.hpp"
#include "proto/peer.pb.h"
#include "tests/common/wire_fixture.hpp"

namespace troupe::expert {
namespace {

constexpr const char* goldens = TROUPE_SOURCE_DIR "/tests/golden";

TEST(layout_wire, every_expert_of_every_family_survives_the_wire) {
  std::vector<std::filesystem::path> folders;
  for (const auto* kind : {"dev", "quantised"}) {
    for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path{goldens} / kind)) {
      if (std::filesystem::exists(entry.path() / "config.json")) folders.push_back(entry.path());
    }
  }
  EXPECT_EQ(folders.size(), 12U);
  for (const auto& folder : folders) {
    auto checkpoint = wire::must(model::checkpoint::open(folder));
    for (const auto& layer : checkpoint.model().layers) {
      for (const auto& expert : layer.experts) {
        proto::BundleLayout message;
        to_proto(expert, message);
        auto back = from_proto(expert.id, message);
        ASSERT_TRUE(back) << folder << " " << back.error().message;
        EXPECT_EQ(back->shape, expert.shape);
        EXPECT_EQ(back->stored, expert.stored);
        EXPECT_EQ(back->bytes(), expert.bytes());
        EXPECT_EQ(back->block, expert.block);
        ASSERT_EQ(back->tensors.size(), expert.tensors.size());
        for (std::size_t index = 0; index < expert.tensors.size(); ++index) {
          EXPECT_EQ(back->tensors[index].role, expert.tensors[index].role);
          EXPECT_EQ(back->tensors[index].type, expert.tensors[index].type);
          EXPECT_EQ(back->tensors[index].transposed, expert.tensors[index].transposed);
        }
      }
    }
  }
}

// What a damaged or hostile peer may say: the device would read past its bundle if any of it got through.
TEST(layout_wire, refuses_what_the_device_could_not_trust) {
  auto checkpoint = wire::must(model::checkpoint::open(TROUPE_SOURCE_DIR "/tests/golden/dev/mixtral"));
  const auto& expert = checkpoint.model().layers.front().experts.front();
  const std::vector<std::pair<const char*, std::function<void(proto::BundleLayout&)>>> damages{
      {"hidden 0", [](auto& m) { m.set_hidden(0); }},
      {"hidden huge", [](auto& m) { m.set_hidden(~0U); }},
      {"other width", [](auto& m) { m.set_width(m.width() + 1); }},
      {"no activation", [](auto& m) { m.clear_activation(); }},
      {"bias that is not there", [](auto& m) { m.set_has_bias(true); }},
      {"tensor missing", [](auto& m) { m.mutable_tensors()->RemoveLast(); }},
      {"tensor twice", [](auto& m) { *m.add_tensors() = m.tensors(0); }},
      {"no role", [](auto& m) { m.mutable_tensors(0)->clear_role(); }},
      {"no dtype", [](auto& m) { m.mutable_tensors(1)->clear_dtype(); }},
      {"integers", [](auto& m) { m.mutable_tensors(1)->set_dtype(proto::I32); }},
      {"other shape", [](auto& m) { m.mutable_tensors(1)->set_shape(0, 1); }},
      {"other rank", [](auto& m) { m.mutable_tensors(1)->add_shape(1); }},
      {"stored as integers", [](auto& m) { m.set_stored(proto::I32); }},
      {"a scale that is not needed", [](auto& m) { m.mutable_tensors(1)->set_role(proto::UP_SCALE); }},
      {"ten tensors",
       [](auto& m) {
         for (int i = 0; i < 7; ++i) *m.add_tensors() = m.tensors(0);
       }},
  };
  for (const auto& [what, damage] : damages) {
    proto::BundleLayout message;
    to_proto(expert, message);
    damage(message);
    EXPECT_FALSE(from_proto(expert.id, message)) << what;
  }
}

TEST(layout_wire, refuses_scales_that_do_not_fit_their_weights) {
  auto checkpoint = wire::must(model::checkpoint::open(std::filesystem::path{goldens} / "quantised/deepseek_v3_fp8"));
  const auto& expert = checkpoint.model().layers.front().experts.front();
  const std::vector<std::pair<const char*, std::function<void(proto::BundleLayout&)>>> damages{
      {"no block", [](auto& m) { m.clear_block_outputs(); }},
      {"another block", [](auto& m) { m.set_block_inputs(64); }},
      {"a huge block", [](auto& m) { m.set_block_outputs(~0U); }},
      {"scale missing", [](auto& m) { m.mutable_tensors()->DeleteSubrange(1, 1); }},
      {"other scales", [](auto& m) { m.mutable_tensors(1)->set_dtype(proto::U8); }},
      {"more scales", [](auto& m) { m.mutable_tensors(1)->set_shape(0, m.tensors(1).shape(0) + 1); }},
      {"an extra dimension", [](auto& m) { m.mutable_tensors(0)->mutable_shape()->Add(1); }},
      {"as mxfp4", [](auto& m) { m.mutable_tensors(0)->set_dtype(proto::U8); }},
  };
  for (const auto& [what, damage] : damages) {
    proto::BundleLayout message;
    to_proto(expert, message);
    damage(message);
    EXPECT_FALSE(from_proto(expert.id, message)) << what;
  }
}

}  // namespace
}  // namespace troupe::expert
