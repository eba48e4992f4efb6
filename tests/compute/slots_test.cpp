// Loading, exporting and emptying slots, and the checks of batches, on both devices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>

#include "compute/slots.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

using model::activation;
using ::testing::HasSubstr;

struct device_kind {
  const char* name;
  dtype type;
  bool reference;
};
const device_kind device_kinds[] = {{"cpu_f32", dtype::f32, false},
                                    {"cpu_bf16", dtype::bf16, false},
                                    {"reference_f32", dtype::f32, true},
                                    {"reference_bf16", dtype::bf16, true}};

std::unique_ptr<device> make(const device_kind& which) {
  cpu_options options{.type = which.type, .threads = 1};
  return std::move(*(which.reference ? make_reference_device(options) : make_cpu_device(options)));
}

class device_slots : public ::testing::TestWithParam<device_kind> {
 protected:
  // The weights survive unless they are rounded to bf16.
  bool keeps(dtype stored) const {
    return GetParam().reference || GetParam().type == dtype::f32 || stored == dtype::bf16;
  }
};
INSTANTIATE_TEST_SUITE_P(all, device_slots, ::testing::ValuesIn(device_kinds),
                         [](const auto& which) { return std::string{which.param.name}; });

TEST_P(device_slots, give_a_bundle_back_bit_by_bit) {
  for (auto stored : {dtype::f32, dtype::f16, dtype::bf16}) {
    for (auto form : {stored_form::separate, stored_form::transposed, stored_form::interleaved,
                      stored_form::interleaved_transposed}) {
      for (bool bias : {false, true}) {
        model::expert_shape shape{83, 70, activation::clamped_glu, bias};
        auto sample = make_sample(shape, stored, form, 5);
        auto d = make(GetParam());
        ASSERT_TRUE(d->reserve(2, d->slot_bytes(shape)));
        ASSERT_TRUE(d->load({1}, sample.layout, sample.bundle));
        std::vector<std::byte> back(sample.bundle.size());
        auto done = d->export_bundle({1}, sample.layout, back);
        if (keeps(stored)) {
          ASSERT_TRUE(done) << done.error().message;
          EXPECT_EQ(back, sample.bundle);
        } else {
          ASSERT_FALSE(done);
          EXPECT_EQ(done.error().code, errc::invalid_request);
          EXPECT_THAT(done.error().message, HasSubstr("rounded to BF16"));
        }
      }
    }
  }
}

// Numbers and scales were multiplied: whoever wants the bundle has to read it where it is stored.
TEST_P(device_slots, serve_quantised_bundles_and_never_give_them_back) {
  for (auto stored : {dtype::f8_e4m3, dtype::u8}) {
    model::expert_shape shape{96, 64, activation::swiglu, false};
    auto sample = make_sample(shape, stored, stored_form::separate, 5);
    auto d = make(GetParam());
    ASSERT_TRUE(d->reserve(1, d->slot_bytes(shape)));
    ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
    auto probed = probe(*d, {0}, sample.layout, sample.bundle);
    EXPECT_TRUE(probed) << probed.error().message;
    std::vector<std::byte> back(sample.bundle.size());
    auto done = d->export_bundle({0}, sample.layout, back);
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, errc::invalid_request);
    EXPECT_THAT(done.error().message, HasSubstr(stored == dtype::u8 ? "stored as MXFP4 and was widened"
                                                                    : "stored as F8_E4M3 and was widened"));
  }
}

TEST_P(device_slots, refuse_what_does_not_fit) {
  model::expert_shape shape{16, 16, activation::swiglu, false};
  auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
  auto d = make(GetParam());
  EXPECT_FALSE(d->load({0}, sample.layout, sample.bundle)) << "before reserve";
  ASSERT_TRUE(d->reserve(2, d->slot_bytes(shape)));
  EXPECT_FALSE(d->reserve(2, d->slot_bytes(shape))) << "twice";
  auto outside = d->load({2}, sample.layout, sample.bundle);
  ASSERT_FALSE(outside);
  EXPECT_THAT(outside.error().message, HasSubstr("slot 2 does not exist"));
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto twice = d->load({0}, sample.layout, sample.bundle);
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().code, errc::conflict);
  auto big = make_sample({64, 64, activation::swiglu, false}, dtype::bf16, stored_form::separate, 1);
  auto refused = d->load({1}, big.layout, big.bundle);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("reserve larger slots"));
  std::vector<std::byte> back(big.bundle.size());
  EXPECT_FALSE(d->export_bundle({1}, big.layout, back)) << "empty";
  EXPECT_FALSE(d->export_bundle({0}, big.layout, back)) << "another shape";
}

TEST_P(device_slots, refuse_bad_batches_and_stay_usable) {
  model::expert_shape shape{16, 16, activation::swiglu, false};
  auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
  auto d = make(GetParam());
  ASSERT_TRUE(d->reserve(2, d->slot_bytes(shape)));
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto expect_refused = [&](auto spoil, const char* text) {
    auto work = make_batch(shape, GetParam().type, 4, 1, 1, 1);
    spoil(work);
    auto done = d->run(work.view(), work.reports);
    ASSERT_FALSE(done) << text;
    EXPECT_EQ(done.error().code, errc::invalid_request);
    EXPECT_THAT(done.error().message, HasSubstr(text));
  };
  std::vector<std::uint32_t> outside{9};
  std::vector<float> one{1.0F};
  expect_refused([](sample_batch& work) { work.groups[0].slot = {1}; }, "slot 1 holds no expert");
  expect_refused([](sample_batch& work) { work.groups[0].slot = {77}; }, "slot 77 holds no expert");
  expect_refused([](sample_batch& work) { work.shape.width = 15; }, "width 15");
  expect_refused([](sample_batch& work) { work.reports.clear(); }, "0 reports for 1 groups");
  expect_refused([&](sample_batch& work) { work.groups[0].gate_weights = one; }, "4 rows and 1 gate weights");
  expect_refused(
      [&](sample_batch& work) {
        work.groups[0].rows = outside;
        work.groups[0].gate_weights = one;
      },
      "row 9 of slot 0 is past the batch's 4 rows");
  auto work = make_batch(shape, GetParam().type, 4, 1, 1, 1);
  EXPECT_TRUE(d->run(work.view(), work.reports));
}

std::size_t resident_bytes() {
  std::ifstream statm{"/proc/self/statm"};
  std::size_t total = 0;
  std::size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST_P(device_slots, keep_only_loaded_experts_resident) {
  model::expert_shape shape{1024, 1024, activation::swiglu, false};
  auto sample = make_sample(shape, dtype::bf16, stored_form::separate, 1);
  auto d = make(GetParam());
  std::size_t slot = d->slot_bytes(shape);
  auto before = resident_bytes();
  ASSERT_TRUE(d->reserve(64, slot));
  EXPECT_LT(resident_bytes(), before + slot) << "reserving touches nothing";
  ASSERT_TRUE(d->load({5}, sample.layout, sample.bundle));
  auto loaded = resident_bytes();
  EXPECT_GE(loaded, before + slot);
  EXPECT_LT(loaded, before + slot + slot / 20 + (1U << 20));
  d->unload({5});
  EXPECT_LT(resident_bytes(), before + slot / 4) << "pages went back";
  ASSERT_TRUE(d->load({5}, sample.layout, sample.bundle)) << "an emptied slot takes an expert again";
  d->unload({5});
  d->unload({6});    // was empty
  d->unload({640});  // does not exist
}

}  // namespace
}  // namespace troupe::compute::test
