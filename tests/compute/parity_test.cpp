// Every device in every case of parity.hpp; published sizes at a sixteenth, but for a GPU.
#include <gtest/gtest.h>

#include <tuple>

#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/parity.hpp"

namespace troupe::compute::test {
namespace {

enum class kind { reference, cpu, gpu_loops, cuda };

struct parity : ::testing::TestWithParam<std::tuple<kind, dtype, std::size_t>> {};

TEST_P(parity, with_f64) {
  const auto [which, type, number] = GetParam();
  const auto c = parity_cases(which == kind::cuda ? 1 : 16)[number];
  SCOPED_TRACE(c.name);
  result<std::unique_ptr<device>> made = fail(errc::internal, "not made");
  if (which == kind::reference) made = make_reference_device({.type = type, .threads = 1});
  if (which == kind::cpu) made = make_cpu_device({.type = type, .threads = 2});
  if (which == kind::gpu_loops) made = make_gpu_device(make_loop_gpu(std::make_shared<loop_gpu_state>()), type);
  if (which == kind::cuda) {
    auto runtime = open_gpu_runtime(TROUPE_BINARY_DIR "/bin/libtroupe_cuda.so", 0);
    if (!runtime) GTEST_SKIP() << runtime.error().message;
    made = make_gpu_device(std::move(*runtime), type);
  }
  ASSERT_TRUE(made) << made.error().message;
  const auto outcome = compare_with_f64(**made, type, c);
  ASSERT_TRUE(outcome) << outcome.error().message;
  EXPECT_LE(outcome->share, tolerance_of(type));
  EXPECT_LE(outcome->norm_share, tolerance_of(type));
}

std::string name_of(const ::testing::TestParamInfo<parity::ParamType>& info) {
  const auto [which, type, number] = info.param;
  constexpr const char* devices[] = {"reference", "cpu", "gpu_loops", "cuda"};
  auto name = std::string{devices[static_cast<int>(which)]} + "_" + std::string{to_string(type)} + "_" +
              parity_cases(1)[number].name;
  for (auto& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(every_device, parity,
                         ::testing::Combine(::testing::Values(kind::reference, kind::cpu, kind::gpu_loops, kind::cuda),
                                            ::testing::Values(dtype::f32, dtype::bf16),
                                            ::testing::Range(std::size_t{0}, parity_cases(1).size())),
                         name_of);

}  // namespace
}  // namespace troupe::compute::test
