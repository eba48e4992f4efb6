#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include <memory>

#include "compute/device.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<device> loaded(dtype type, const sample_expert& sample) {
  auto d = std::move(*make_cpu_device({.type = type, .threads = 1}));
  EXPECT_TRUE(d->reserve(1, d->slot_bytes(sample.layout.shape)));
  EXPECT_TRUE(d->load({0}, sample.layout, sample.bundle));
  return d;
}

TEST(probe, passes_for_what_was_loaded) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    for (auto act : {model::activation::swiglu, model::activation::clamped_glu, model::activation::gelu_erf}) {
      auto sample = make_sample({300, 200, act, true}, dtype::f32, stored_form::separate, 1);
      auto d = loaded(type, sample);
      auto done = probe(*d, {0}, sample.layout, sample.bundle);
      EXPECT_TRUE(done) << done.error().message;
    }
  }
}

TEST(probe, fails_for_other_weights_in_the_slot) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    model::expert_shape shape{300, 200, model::activation::swiglu, false};
    auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
    auto other = make_sample(shape, dtype::bf16, stored_form::separate, 2);
    auto d = loaded(type, other);
    auto done = probe(*d, {0}, sample.layout, sample.bundle);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, errc::corrupt);
    EXPECT_THAT(done.error().message, HasSubstr("probe of expert 3/1 in slot 0"));
  }
}

TEST(probe, tells_one_scale_from_another) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    auto sample = make_sample({96, 64, model::activation::swiglu, false}, dtype::u8, stored_form::interleaved, 1);
    auto other = sample;
    other.bundle[sample.layout.tensors[0].bytes] ^= std::byte{2};  // the scale of its first 32 weights
    auto d = loaded(type, other);
    EXPECT_FALSE(probe(*d, {0}, sample.layout, sample.bundle));
    EXPECT_TRUE(probe(*d, {0}, other.layout, other.bundle));
  }
}

TEST(probe, fails_when_the_output_is_not_finite) {
  model::expert_shape shape{30, 20, model::activation::swiglu, false};
  auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
  auto broken = sample;
  std::uint16_t infinity = 0x7f80;
  std::memcpy(broken.bundle.data(), &infinity, sizeof infinity);
  auto d = loaded(dtype::bf16, broken);
  auto done = probe(*d, {0}, sample.layout, sample.bundle);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().code, errc::corrupt);
}

TEST(comparison, of_slots_is_that_of_their_outputs) {
  for (auto type : {dtype::f32, dtype::bf16}) {
    model::expert_shape shape{48, 40, model::activation::swiglu, false};
    auto sample = make_sample(shape, dtype::f32, stored_form::separate, 1);
    auto doubled = make_sample(shape, dtype::f32, stored_form::separate, 1);
    // The last third of the bundle is the down projection: outputs are linear in it.
    const std::size_t down = doubled.bundle.size() / 3 * 2;
    for (std::size_t at = down; at < doubled.bundle.size(); at += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, &doubled.bundle[at], sizeof value);
      value *= 2;
      std::memcpy(&doubled.bundle[at], &value, sizeof value);
    }
    auto d = std::move(*make_cpu_device({.type = type, .threads = 1}));
    ASSERT_TRUE(d->reserve(2, d->slot_bytes(shape)));
    ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
    ASSERT_TRUE(d->load({1}, doubled.layout, doubled.bundle));
    std::vector<float> values(std::size_t{5} * shape.hidden);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 13) / 6.5F - 0.9F;
    std::vector<std::byte> rows(values.size() * bytes_per_element(type));
    convert(dtype::f32, reinterpret_cast<const std::byte*>(values.data()), type, rows.data(), values.size());
    auto same = compare_slots(*d, shape, {0}, {0}, rows);
    ASSERT_TRUE(same);
    EXPECT_EQ(same->rows, 5U);
    EXPECT_EQ(same->largest, 0);
    auto other = compare_slots(*d, shape, {0}, {1}, rows);
    ASSERT_TRUE(other);
    EXPECT_NEAR(other->mean, 1.0, 1e-2);
    EXPECT_NEAR(other->largest, 1.0, 1e-2);
  }
}

TEST(probe, of_an_empty_slot_says_so) {
  auto sample = make_sample({30, 20, model::activation::swiglu, false}, dtype::bf16, stored_form::separate, 1);
  auto d = loaded(dtype::bf16, sample);
  d->unload({0});
  auto done = probe(*d, {0}, sample.layout, sample.bundle);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, HasSubstr("holds no expert"));
}

}  // namespace
}  // namespace troupe::compute::test
