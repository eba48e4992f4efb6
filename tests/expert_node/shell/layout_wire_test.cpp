#include "expert_node/shell/layout_wire.hpp"

#include <functional>

#include <gtest/gtest.h>

#include "model/checkpoint.hpp"
#include "proto/peer.pb.h"
#include "tests/common/wire_fixture.hpp"

namespace troupe::expert {
namespace {

TEST(layout_wire, every_expert_of_every_family_survives_the_wire) {
  for (const auto& entry : std::filesystem::directory_iterator(TROUPE_SOURCE_DIR "/tests/golden/dev")) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    auto checkpoint = wire::must(model::checkpoint::open(entry.path()));
    for (const auto& layer : checkpoint.model().layers) {
      for (const auto& expert : layer.experts) {
        proto::BundleLayout message;
        to_proto(expert, message);
        auto back = from_proto(expert.id, message);
        ASSERT_TRUE(back) << entry.path() << " " << back.error().message;
        EXPECT_EQ(back->shape, expert.shape);
        EXPECT_EQ(back->stored, expert.stored);
        EXPECT_EQ(back->bytes(), expert.bytes());
        ASSERT_EQ(back->tensors.size(), expert.tensors.size());
        for (std::size_t index = 0; index < expert.tensors.size(); ++index) {
          EXPECT_EQ(back->tensors[index].role, expert.tensors[index].role);
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
      {"stored as integers", [](auto& m) { m.set_stored(proto::U8); }},
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
