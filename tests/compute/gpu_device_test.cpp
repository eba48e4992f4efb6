// The GPU device on plain loops: what goes where, in how many launches, and what happens when the device refuses.
#include <gtest/gtest.h>

#include <random>

#include "common/limits.hpp"
#include "compute/gpu_batch.hpp"
#include "compute/gpu_memory.hpp"
#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

using model::activation;
using namespace std::string_literals;

struct gpu_device : ::testing::Test {
  std::shared_ptr<loop_gpu_state> state = std::make_shared<loop_gpu_state>();

  std::unique_ptr<device> make(dtype type = dtype::bf16) { return *make_gpu_device(make_loop_gpu(state), type); }
};

const model::expert_shape small{40, 24, activation::swiglu, false};

TEST_F(gpu_device, launches_as_often_for_many_experts_as_for_one) {
  auto d = make();
  ASSERT_TRUE(d->reserve(6, d->slot_bytes(small)));
  for (std::uint32_t e = 0; e < 6; ++e) {
    auto sample = make_sample(small, dtype::bf16, stored_form::separate, e);
    ASSERT_TRUE(d->load({e}, sample.layout, sample.bundle));
  }
  auto work = make_batch(small, dtype::bf16, 9, 6, 4, 1);
  ASSERT_TRUE(d->run(work.view(), work.reports));
  EXPECT_EQ(state->launches, 2);
  EXPECT_EQ(state->multiplications, 1);
}

TEST_F(gpu_device, zeroes_rows_that_no_group_names) {
  auto d = make();
  ASSERT_TRUE(d->reserve(1, d->slot_bytes(small)));
  auto work = make_batch(small, dtype::bf16, 9, 1, 0, 4);
  work.groups.clear();
  work.reports.clear();
  work.output.assign(work.output.size(), std::byte{1});
  ASSERT_TRUE(d->run(work.view(), work.reports));
  for (float value : work.outputs()) EXPECT_EQ(value, 0.0F);
  EXPECT_EQ(state->multiplications, 0);
}

TEST_F(gpu_device, gives_the_bytes_of_a_bundle_back) {
  const model::expert_shape shape{33, 70, activation::clamped_glu, true};
  auto d = make();
  ASSERT_TRUE(d->reserve(3, d->slot_bytes(shape)));
  auto sample = make_sample(shape, dtype::bf16, stored_form::interleaved_transposed, 7);
  ASSERT_TRUE(d->load({2}, sample.layout, sample.bundle));
  std::vector<std::byte> again(sample.bundle.size());
  ASSERT_TRUE(d->export_bundle({2}, sample.layout, again));
  EXPECT_EQ(again, sample.bundle);
  EXPECT_EQ(d->export_bundle({1}, sample.layout, again).error().code, errc::invalid_request);
  EXPECT_EQ(d->load({2}, sample.layout, sample.bundle).error().code, errc::conflict);
  d->unload({2});
  EXPECT_TRUE(d->load({2}, sample.layout, sample.bundle));
  auto rounded = make_sample(shape, dtype::f32, stored_form::separate, 8);
  ASSERT_TRUE(d->load({0}, rounded.layout, rounded.bundle));
  again.resize(rounded.bundle.size());
  EXPECT_FALSE(d->export_bundle({0}, rounded.layout, again)) << "bf16 has forgotten what f32 said";
}

TEST_F(gpu_device, takes_no_quantised_bundle_over_a_link) {
  const model::expert_shape shape{96, 64, activation::clamped_glu, true};
  auto d = make();
  ASSERT_TRUE(d->reserve(1, d->slot_bytes(shape)));
  const auto sample = make_sample(shape, dtype::u8, stored_form::interleaved, 7);
  EXPECT_EQ(d->adopt({0}, sample.layout).error().code, errc::invalid_request) << "its digest could not be compared";
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle)) << "the slot is still free";
}

TEST_F(gpu_device, says_both_numbers_when_memory_is_short) {
  state->memory_max = 1 << 20;
  auto d = make();
  auto refused = d->reserve(1000, 1 << 20);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::out_of_memory);
  EXPECT_NE(refused.error().message.find("1048576000"), std::string::npos) << refused.error().message;
  EXPECT_NE(refused.error().message.find("1048576 free"), std::string::npos) << refused.error().message;
  EXPECT_TRUE(d->reserve(2, 1 << 16)) << "a smaller arena is fine afterwards";
}

// What `troupe model plan` says of a GPU that is not there.
TEST_F(gpu_device, takes_no_more_than_is_planned_for_it) {
  const model::expert_shape shape{32, 16, activation::swiglu, true};
  for (const auto type : {dtype::f32, dtype::bf16}) {
    model::description model;
    model.layers.emplace_back().shape = shape;
    const auto planned = gpu_memory_of(model, type, state->memory_max);
    auto d = make(type);
    EXPECT_EQ(planned.slot_bytes, d->slot_bytes(shape));
    ASSERT_TRUE(d->reserve(16, planned.slot_bytes));
    for (std::uint32_t e = 0; e < 16; ++e) {
      auto sample = make_sample(shape, type, stored_form::separate, e);
      ASSERT_TRUE(d->load({e}, sample.layout, sample.bundle));
    }
    auto work = make_batch(shape, type, limits::rows_per_request_max, 16, 8, 1);
    ASSERT_TRUE(d->run(work.view(), work.reports));
    EXPECT_GT(d->info().scratch_bytes, limits::mib);
    EXPECT_LE(d->info().scratch_bytes, planned.scratch_bytes);
    EXPECT_LE(state->allocated, 16 * planned.slot_bytes + planned.scratch_bytes);
  }
}

TEST_F(gpu_device, serves_on_after_a_failed_batch) {
  auto d = make(dtype::f32);
  ASSERT_TRUE(d->reserve(1, d->slot_bytes(small)));
  auto sample = make_sample(small, dtype::f32, stored_form::separate, 3);
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto work = make_batch(small, dtype::f32, 5, 1, 1, 2);
  state->fails = true;
  auto failed = d->run(work.view(), work.reports);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, errc::internal);
  EXPECT_FALSE(d->is_lost());
  ASSERT_TRUE(d->run(work.view(), work.reports));
  const auto expected = expected_row(work, {&sample, 1}, 3);
  for (std::size_t c = 0; c < expected.size(); ++c)
    EXPECT_NEAR(work.outputs()[3 * small.hidden + c], expected[c], 1e-4);
}

TEST_F(gpu_device, says_when_it_is_lost_and_gives_everything_back_then) {
  auto d = make();
  ASSERT_TRUE(d->reserve(2, d->slot_bytes(small)));
  auto sample = make_sample(small, dtype::bf16, stored_form::separate, 3);
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto work = make_batch(small, dtype::bf16, 5, 1, 1, 2);
  state->breaks = [] { return true; };
  ASSERT_FALSE(d->run(work.view(), work.reports));
  EXPECT_TRUE(d->is_lost());
  EXPECT_FALSE(d->load({1}, sample.layout, sample.bundle)) << "the other stream is lost with it";
  d.reset();
  EXPECT_EQ(state->allocated, 0U);
  EXPECT_EQ(state->host_allocated, 0U);
}

TEST_F(gpu_device, is_not_lost_when_memory_for_a_batch_is_short) {
  auto d = make();
  ASSERT_TRUE(d->reserve(1, d->slot_bytes(small)));
  auto sample = make_sample(small, dtype::bf16, stored_form::separate, 3);
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto work = make_batch(small, dtype::bf16, 5, 1, 1, 2);
  state->memory_max = state->allocated;
  auto refused = d->run(work.view(), work.reports);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::out_of_memory);
  EXPECT_FALSE(d->is_lost());
  state->memory_max = std::size_t{1} << 30;
  EXPECT_TRUE(d->run(work.view(), work.reports)) << "and goes on when there is room again";
}

TEST_F(gpu_device, gives_everything_back) {
  auto d = make();
  ASSERT_TRUE(d->reserve(2, d->slot_bytes(small)));
  auto sample = make_sample(small, dtype::bf16, stored_form::separate, 3);
  ASSERT_TRUE(d->load({0}, sample.layout, sample.bundle));
  auto work = make_batch(small, dtype::bf16, 5, 1, 1, 2);
  ASSERT_TRUE(d->run(work.view(), work.reports));
  EXPECT_GT(state->allocated, 0U);
  EXPECT_GT(state->host_allocated, 0U);
  d.reset();
  EXPECT_EQ(state->allocated, 0U);
  EXPECT_EQ(state->host_allocated, 0U);
}

TEST_F(gpu_device, refuses_types_that_it_cannot_compute_in) {
  auto refused = make_gpu_device(make_loop_gpu(state), dtype::f16);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("F16"), std::string::npos);
}

TEST(gpu_batch, cuts_any_batch_so_that_nothing_is_lost_or_doubled) {
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    const auto draw = [&](std::uint32_t below) { return static_cast<std::uint32_t>(random() % below); };
    const std::uint32_t rows = 1 + draw(40);
    const auto experts = 1 + draw(8);
    auto work = make_batch(small, dtype::f32, rows, experts, draw(experts + 1), static_cast<std::uint32_t>(round));
    const auto most = 1 + draw(30);
    const auto rows_most = 1 + draw(20);
    std::uint32_t next_row = 0;
    std::vector<std::vector<float>> seen(rows);  // weights per row, in the order in which they are summed
    for (const auto& pass : cut_into_passes(work.view(), rows, most, rows_most)) {
      ASSERT_EQ(pass.first_row, next_row);
      next_row += pass.rows;
      ASSERT_LE(pass.rows, rows_most);
      if (pass.rows > 1) {
        ASSERT_LE(pass.assignments(), most);
      }
      ASSERT_EQ(pass.begin_of.back(), pass.assignments());
      for (std::uint32_t r = 0; r < pass.rows; ++r) {
        for (auto k = pass.first_of[r]; k < pass.first_of[r + 1]; ++k) {
          ASSERT_EQ(pass.row_of[pass.by_row[k]], r);
          seen[pass.first_row + r].push_back(pass.weight[pass.by_row[k]]);
        }
      }
    }
    ASSERT_EQ(next_row, rows);
    std::vector<std::vector<float>> expected(rows);
    for (const auto& group : work.groups) {
      for (std::size_t i = 0; i < group.rows.size(); ++i) expected[group.rows[i]].push_back(group.gate_weights[i]);
    }
    ASSERT_EQ(seen, expected);
  }
}

TEST(gpu_plugin, is_refused_with_the_reason) {
  auto missing = open_gpu_runtime("/nowhere/libtroupe_cuda.so", 0);
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, errc::unavailable);
  EXPECT_NE(missing.error().message.find("cuda:0 cannot be used"), std::string::npos) << missing.error().message;
  EXPECT_NE(missing.error().message.find("--device cpu"), std::string::npos) << missing.error().message;
  auto other = open_gpu_runtime("libm.so.6", 1);
  ASSERT_FALSE(other);
  EXPECT_NE(other.error().message.find("no plug-in of Troupe"), std::string::npos) << other.error().message;
}

}  // namespace
}  // namespace troupe::compute::test
