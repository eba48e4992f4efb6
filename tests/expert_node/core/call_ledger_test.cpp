#include "expert_node/core/call_ledger.hpp"

#include <gtest/gtest.h>

namespace troupe::expert {
namespace {

call_id call(std::uint64_t request, std::uint32_t attempt = 0, std::uint64_t router = 1) {
  return {{router}, {request}, attempt};
}

errc refusal(call_ledger& ledger, const call_id& id, std::uint32_t rows = 1, std::uint64_t bytes = 1) {
  auto admitted = ledger.admit(id, rows, bytes);
  EXPECT_FALSE(admitted);
  return admitted ? errc::internal : admitted.error().code;
}

TEST(call_ledger, o1_refuses_past_each_bound_at_once_and_takes_nothing_half) {
  call_ledger ledger{{.rows_max = 10, .bytes_max = 100, .calls_max = 2, .answered_max = 8}};
  ASSERT_TRUE(ledger.admit(call(1), 6, 60));
  EXPECT_EQ(refusal(ledger, call(2), 5, 1), errc::overloaded);
  EXPECT_EQ(refusal(ledger, call(2), 1, 41), errc::overloaded);
  EXPECT_EQ(ledger.rows(), 6U);
  ASSERT_TRUE(ledger.admit(call(2), 4, 40));
  EXPECT_EQ(refusal(ledger, call(3), 0, 0), errc::overloaded);
  ASSERT_TRUE(ledger.settle(call(1)));
  EXPECT_EQ(ledger.rows(), 4U);
  EXPECT_EQ(ledger.bytes(), 40U);
  EXPECT_TRUE(ledger.admit(call(3), 6, 60));
}

TEST(call_ledger, w12_a_repeated_call_is_recognised_while_in_flight_and_afterwards) {
  call_ledger ledger;
  ASSERT_TRUE(ledger.admit(call(7, 1), 1, 1));
  EXPECT_EQ(refusal(ledger, call(7, 1)), errc::in_progress);
  EXPECT_TRUE(ledger.admit(call(7, 2), 1, 1)) << "another attempt is another call";
  EXPECT_TRUE(ledger.admit(call(7, 1, 2), 1, 1)) << "another router has its own numbers";
  ASSERT_TRUE(ledger.settle(call(7, 1)));
  EXPECT_EQ(refusal(ledger, call(7, 1)), errc::conflict);
  EXPECT_EQ(ledger.calls(), 2U);
}

TEST(call_ledger, forgets_the_oldest_answered_calls_first) {
  call_ledger ledger{{.answered_max = 2}};
  for (std::uint64_t request : {1, 2, 3}) {
    ASSERT_TRUE(ledger.admit(call(request), 1, 1));
    ASSERT_TRUE(ledger.settle(call(request)));
  }
  EXPECT_EQ(refusal(ledger, call(2)), errc::conflict);
  EXPECT_EQ(refusal(ledger, call(3)), errc::conflict);
  EXPECT_TRUE(ledger.admit(call(1), 1, 1));
}

TEST(call_ledger, w13_settling_what_is_not_in_flight_changes_nothing) {
  call_ledger ledger;
  ASSERT_TRUE(ledger.admit(call(1), 3, 5));
  EXPECT_FALSE(ledger.settle(call(2)));
  EXPECT_TRUE(ledger.settle(call(1)));
  EXPECT_FALSE(ledger.settle(call(1)));
  EXPECT_EQ(ledger.rows(), 0U);
}

TEST(call_ledger, closed_refuses_the_new_and_keeps_the_old) {
  call_ledger ledger;
  ASSERT_TRUE(ledger.admit(call(1), 3, 5));
  ledger.close();
  EXPECT_EQ(refusal(ledger, call(2)), errc::unavailable);
  EXPECT_EQ(ledger.calls(), 1U);
}

}  // namespace
}  // namespace troupe::expert
