// Every device, dtype and form against f64 at a stated share of the largest expected value.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <memory>
#include <tuple>

#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/sample_expert.hpp"

namespace troupe::compute::test {
namespace {

using model::activation;

constexpr double tolerance_of(dtype type) { return type == dtype::f32 ? 2e-5 : 2e-2; }

enum class kind { reference, cpu, gpu_loops, cuda };

// nullptr: there is no GPU that could be used.
std::unique_ptr<device> make_device(kind which, dtype type, std::uint32_t threads) {
  if (which == kind::cuda) {
    auto runtime = open_gpu_runtime(TROUPE_BINARY_DIR "/bin/libtroupe_cuda.so", 0);
    return runtime ? *make_gpu_device(std::move(*runtime), type) : nullptr;
  }
  if (which == kind::gpu_loops) return *make_gpu_device(make_loop_gpu(std::make_shared<loop_gpu_state>()), type);
  cpu_options options{.type = type, .threads = threads};
  auto made = which == kind::cpu ? make_cpu_device(options) : make_reference_device(options);
  EXPECT_TRUE(made) << made.error().message;
  return std::move(*made);
}

std::vector<sample_expert> load_experts(device& d, const model::expert_shape& shape, std::uint32_t count, dtype stored,
                                        stored_form form) {
  std::vector<sample_expert> experts;
  auto reserved = d.reserve(count, d.slot_bytes(shape));
  EXPECT_TRUE(reserved) << reserved.error().message;
  for (std::uint32_t e = 0; e < count; ++e) {
    experts.push_back(make_sample(shape, stored, form, 100 + e));
    auto loaded = d.load({e}, experts.back().layout, experts.back().bundle);
    EXPECT_TRUE(loaded) << loaded.error().message;
  }
  return experts;
}

// Compares every `stride`-th row; says which value is wrong.
void expect_close(const sample_batch& work, const std::vector<sample_expert>& experts, std::uint32_t stride) {
  auto ours = work.outputs();
  double peak = 0;
  double worst = 0;
  std::size_t where = 0;
  for (std::uint32_t row = 0; row < work.rows; row += stride) {
    auto expected = expected_row(work, experts, row);
    for (std::size_t c = 0; c < expected.size(); ++c) {
      double value = ours[std::size_t{row} * work.shape.hidden + c];
      ASSERT_TRUE(std::isfinite(value)) << "row " << row << " column " << c;
      peak = std::max(peak, std::abs(expected[c]));
      if (double off = std::abs(value - expected[c]); off > worst) {
        worst = off;
        where = std::size_t{row} * work.shape.hidden + c;
      }
    }
  }
  ASSERT_GT(peak, 0);
  EXPECT_LE(worst / peak, tolerance_of(work.type))
      << "row " << where / work.shape.hidden << " column " << where % work.shape.hidden << " peak " << peak;
}

void run(device& d, sample_batch& work) {
  auto done = d.run(work.view(), work.reports);
  ASSERT_TRUE(done) << done.error().message;
}

// -- every device, type and shape ---------------------------------------------------------------------------------

struct shape_case {
  model::expert_shape shape;
  stored_form form;
  dtype stored;
};

const shape_case shape_cases[] = {
    {{7, 5, activation::swiglu, false}, stored_form::separate, dtype::bf16},
    {{1, 1, activation::relu, true}, stored_form::separate, dtype::f32},
    {{64, 64, activation::swiglu, false}, stored_form::transposed, dtype::f16},
    {{96, 80, activation::clamped_glu, true}, stored_form::interleaved_transposed, dtype::bf16},
    {{33, 130, activation::swiglu, true}, stored_form::interleaved, dtype::f32},
    {{130, 33, activation::gelu_erf, true}, stored_form::separate, dtype::bf16},
    {{200, 264, activation::gelu_tanh, false}, stored_form::transposed, dtype::f16},
    {{256, 16, activation::relu, false}, stored_form::separate, dtype::bf16},
    {{72, 448, activation::swiglu, false}, stored_form::separate, dtype::bf16},
};

class device_shapes : public ::testing::TestWithParam<std::tuple<kind, dtype, shape_case>> {};

TEST_P(device_shapes, agree_with_f64_at_any_row_count) {
  auto [which, type, c] = GetParam();
  auto d = make_device(which, type, 2);
  if (!d) GTEST_SKIP() << "no GPU here, or no plug-in";
  auto experts = load_experts(*d, c.shape, 5, c.stored, c.form);
  for (std::uint32_t rows : {1U, 2U, 5U, 16U, 17U, 33U, 47U}) {
    SCOPED_TRACE(rows);
    auto work = make_batch(c.shape, type, rows, 5, 3, rows);
    run(*d, work);
    expect_close(work, experts, 1);
    for (std::size_t g = 0; g < work.groups.size(); ++g) {
      double norm = expected_norm(work, experts, g);
      EXPECT_NEAR(work.reports[g].weighted_norm_sum, norm, norm * tolerance_of(type)) << "group " << g;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(all, device_shapes,
                         ::testing::Combine(::testing::Values(kind::reference, kind::cpu, kind::gpu_loops, kind::cuda),
                                            ::testing::Values(dtype::f32, dtype::bf16),
                                            ::testing::ValuesIn(shape_cases)));

// -- the fast device ----------------------------------------------------------------------------------------------

class cpu_device : public ::testing::TestWithParam<dtype> {};
INSTANTIATE_TEST_SUITE_P(both, cpu_device, ::testing::Values(dtype::f32, dtype::bf16));

TEST_P(cpu_device, computes_more_rows_than_fit_one_pass) {
  model::expert_shape shape{64, 1024, activation::swiglu, false};
  auto d = make_device(kind::cpu, GetParam(), 2);
  auto experts = load_experts(*d, shape, 6, dtype::bf16, stored_form::separate);
  auto work = make_batch(shape, GetParam(), 4096, 6, 5, 1);
  run(*d, work);
  expect_close(work, experts, 61);
  EXPECT_LE(d->info().scratch_bytes, 32U << 20);
  double total = 0;
  for (const auto& report : work.reports) total += report.seconds;
  EXPECT_GT(total, 0);
}

TEST_P(cpu_device, gives_one_expert_every_row) {
  model::expert_shape shape{128, 96, activation::swiglu, false};
  auto d = make_device(kind::cpu, GetParam(), 3);
  auto experts = load_experts(*d, shape, 1, dtype::bf16, stored_form::separate);
  auto work = make_batch(shape, GetParam(), 1000, 1, 1, 2);
  run(*d, work);
  expect_close(work, experts, 17);
}

TEST_P(cpu_device, is_bitwise_equal_on_any_number_of_threads) {
  for (auto shape : {model::expert_shape{200, 264, activation::swiglu, true},
                     model::expert_shape{512, 768, activation::gelu_tanh, false}}) {
    std::vector<std::byte> first;
    std::vector<double> norms;
    for (std::uint32_t threads : {1U, 2U, 3U, 7U}) {
      auto d = make_device(kind::cpu, GetParam(), threads);
      auto experts = load_experts(*d, shape, 6, dtype::bf16, stored_form::separate);
      for (int repeat = 0; repeat < 3; ++repeat) {
        auto work = make_batch(shape, GetParam(), 70, 6, 4, 3);
        run(*d, work);
        std::vector<double> these;
        for (const auto& report : work.reports) these.push_back(report.weighted_norm_sum);
        if (first.empty()) {
          first = work.output;
          norms = these;
        }
        EXPECT_EQ(work.output, first) << threads << " threads";
        EXPECT_EQ(these, norms) << threads << " threads";
      }
    }
  }
}

TEST_P(cpu_device, writes_zeros_for_rows_that_no_group_names) {
  model::expert_shape shape{40, 24, activation::swiglu, false};
  auto d = make_device(kind::cpu, GetParam(), 2);
  auto experts = load_experts(*d, shape, 2, dtype::bf16, stored_form::separate);
  auto work = make_batch(shape, GetParam(), 9, 2, 0, 4);  // groups without rows
  run(*d, work);
  for (float value : work.outputs()) EXPECT_EQ(value, 0.0F);
  work.groups.clear();
  work.reports.clear();
  work.output.assign(work.output.size(), std::byte{1});
  run(*d, work);
  for (float value : work.outputs()) EXPECT_EQ(value, 0.0F);
}

TEST_P(cpu_device, does_not_mix_rows) {
  // A row of NaN spoils itself alone, in its own batch and in the next one on the same scratch.
  model::expert_shape shape{72, 40, activation::swiglu, false};
  auto d = make_device(kind::cpu, GetParam(), 2);
  auto experts = load_experts(*d, shape, 1, dtype::bf16, stored_form::separate);
  auto work = make_batch(shape, GetParam(), 20, 1, 1, 5);
  auto clean = work.input;
  float bad = std::numeric_limits<float>::quiet_NaN();
  for (std::size_t c = 0; c < shape.hidden; ++c) {
    convert(dtype::f32, reinterpret_cast<const std::byte*>(&bad), GetParam(),
            work.input.data() + (7 * shape.hidden + c) * bytes_per_element(GetParam()), 1);
  }
  run(*d, work);
  auto outputs = work.outputs();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    EXPECT_EQ(std::isnan(outputs[i]), i / shape.hidden == 7) << i / shape.hidden;
  }
  work.input = clean;
  run(*d, work);
  expect_close(work, experts, 1);
}

TEST_P(cpu_device, serves_shapes_in_turn) {
  auto d = make_device(kind::cpu, GetParam(), 2);
  std::vector<model::expert_shape> shapes{{96, 200, activation::swiglu, false}, {48, 17, activation::relu, true}};
  ASSERT_TRUE(d->reserve(2, std::max(d->slot_bytes(shapes[0]), d->slot_bytes(shapes[1]))));
  std::vector<sample_expert> experts;
  for (std::uint32_t e = 0; e < 2; ++e) {
    experts.push_back(make_sample(shapes[e], dtype::bf16, stored_form::separate, e));
    ASSERT_TRUE(d->load({e}, experts[e].layout, experts[e].bundle));
  }
  for (std::uint32_t turn = 0; turn < 4; ++turn) {
    auto work = make_batch(shapes[turn % 2], GetParam(), 30 - turn, 1, 1, turn);
    work.groups[0].slot = {turn % 2};
    run(*d, work);
    expect_close(work, {experts[turn % 2]}, 1);
  }
}

TEST(cpu_device_memory, slots_add_little_to_the_bundles) {
  // Widths of published models: OLMoE, Qwen1.5-MoE, Mixtral, GPT-OSS.
  for (auto [hidden, width] : {std::pair{2048U, 1024U}, {2048U, 1408U}, {4096U, 14336U}, {2880U, 2880U}}) {
    model::expert_shape shape{hidden, width, activation::swiglu, false};
    auto d = make_device(kind::cpu, dtype::bf16, 1);
    EXPECT_EQ(d->slot_bytes(shape), std::size_t{3} * hidden * width * 2);
  }
}

TEST(cpu_device_info, names_what_computes) {
  auto d = make_device(kind::cpu, dtype::bf16, 2);
  auto info = d->info();
  EXPECT_EQ(info.name, "cpu");
  EXPECT_EQ(info.threads, 2U);
  EXPECT_EQ(info.type, dtype::bf16);
  EXPECT_NE(info.description.find("oneDNN 2."), std::string::npos) << info.description;
  EXPECT_NE(info.description.find("2 threads"), std::string::npos) << info.description;
}

TEST(cpu_device_options, are_refused_when_they_make_no_sense) {
  auto narrow = make_cpu_device({.type = dtype::f16, .threads = 1});
  ASSERT_FALSE(narrow);
  EXPECT_EQ(narrow.error().code, errc::invalid_request);
  EXPECT_NE(narrow.error().message.find("F16"), std::string::npos);
  EXPECT_FALSE(make_cpu_device({.type = dtype::f32, .threads = 0}));
  EXPECT_FALSE(make_cpu_device({.type = dtype::f32, .threads = 100'000}));
  EXPECT_FALSE(make_reference_device({.type = dtype::i32, .threads = 1}));
}

}  // namespace
}  // namespace troupe::compute::test
