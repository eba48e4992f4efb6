#include "cli/gpu_plan.hpp"

#include <gmock/gmock.h>

namespace troupe::cli {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t gib = 1ULL << 30;
constexpr std::uint64_t mib = 1ULL << 20;

gpu_demand of_80_gib(std::uint64_t experts, std::uint32_t replication = 1) {
  return {experts, replication, 42 * mib, 2 * gib, 80 * gib};
}

TEST(gpu_plan, says_how_many_experts_a_gpu_holds_and_how_many_gpus_it_takes) {
  const auto plan = plan_gpus(of_80_gib(58 * 256), std::nullopt);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->slots_fit, 78 * 1024 / 42);  // 1901
  EXPECT_EQ(plan->gpus_needed, 8U) << "14,848 / 1,901, rounded up";
  EXPECT_EQ(plan->gpus, 8U);
  EXPECT_EQ(plan->slots_needed, 1856U);
}

TEST(gpu_plan, replicas_of_an_expert_are_on_different_gpus) {
  const auto plan = plan_gpus(of_80_gib(64, 3), std::nullopt);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->slots_fit, 64U) << "no more than there are experts";
  EXPECT_EQ(plan->gpus_needed, 3U);
}

TEST(gpu_plan, shares_the_replicas_out_over_the_gpus_that_there_are) {
  const auto plan = plan_gpus(of_80_gib(100, 2), 8);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(plan->gpus, 8U);
  EXPECT_EQ(plan->gpus_needed, 2U);
  EXPECT_EQ(plan->slots_needed, 25U);
}

TEST(gpu_plan, too_few_gpus_are_refused_with_both_numbers_and_how_many_it_takes) {
  const auto plan = plan_gpus(of_80_gib(58 * 256), 4);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, errc::out_of_memory);
  EXPECT_THAT(plan.error().message, AllOf(HasSubstr("3712 slots"), HasSubstr("154.2 GiB"), HasSubstr("80.0 GiB"),
                                          HasSubstr("use 8 GPUs or more")));
}

TEST(gpu_plan, a_gpu_that_holds_not_one_expert_is_refused_with_both_numbers) {
  const auto plan = plan_gpus({8, 1, 3 * gib, 1 * gib, 2 * gib}, std::nullopt);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, errc::out_of_memory);
  EXPECT_THAT(plan.error().message, AllOf(HasSubstr("3.0 GiB"), HasSubstr("2.0 GiB")));
  EXPECT_FALSE(plan_gpus({8, 1, mib, 3 * gib, 2 * gib}, std::nullopt)) << "the work alone does not fit";
}

}  // namespace
}  // namespace troupe::cli
