// The C++ client against fake routers: results, errors, handshakes, failover, memory of the caller.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <numeric>
#include <troupe/client.hpp>

#include "tests/client/cpp/fake_router.hpp"

namespace troupe::client {
namespace {

using namespace std::chrono_literals;
using testing::answer_double;
using testing::answer_failure;
using testing::answer_layer;
using testing::fake_router;
using ::testing::HasSubstr;
using testing::request;

void keep_silent(fake_router&, const request&) {}

class client_test : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("troupe-client-" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
    hidden_.resize(3 * 4);
    std::iota(hidden_.begin(), hidden_.end(), 1.0F);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string address(int number = 0) const {
    return "ipc://" + (folder_ / ("router-" + std::to_string(number))).string();
  }
  [[nodiscard]] cluster connect(std::vector<std::string> addresses = {}) const {
    if (addresses.empty()) addresses = {address()};
    return cluster::connect({.addresses = std::move(addresses), .data_dir = folder_, .key_file = {}, .timeout = 10s});
  }
  [[nodiscard]] row_view rows() const { return {dtype::f32, 3, 4, hidden_.data()}; }
  [[nodiscard]] bool is_doubled(const layer_result& result) const {
    const auto output = result.output_as<float>();
    return std::equal(output.begin(), output.end(), hidden_.begin(), hidden_.end(),
                      [](float got, float sent) { return got == 2 * sent; });
  }

  std::filesystem::path folder_;
  std::vector<float> hidden_;
};

// The error that `call` ends with.
template <class Call>
error failure_of(Call call) {
  try {
    call();
  } catch (const error& caught) {
    return caught;
  }
  return {error_code::internal, "no error"};
}

TEST_F(client_test, layer_returns_what_the_router_computed) {
  fake_router router(address());
  auto cluster = connect();
  auto result = cluster.layer(3, rows(), {.policy = degrade::renormalise, .timeout = 5s});
  const auto moved = std::move(result);
  EXPECT_TRUE(is_doubled(moved));
  EXPECT_EQ(moved.rows(), 3U);
  EXPECT_EQ(moved.width(), 4U);
  EXPECT_EQ(moved.experts_per_token(), 2U);
  EXPECT_EQ(moved.type(), dtype::f32);
  EXPECT_EQ(moved.routed_output().size(), 3 * 4 * sizeof(float));
  EXPECT_THAT(moved.expert_ids(), ::testing::ElementsAre(1, 0, 1, 0, 1, 0));
  EXPECT_THAT(moved.expert_weights(), ::testing::Each(0.5F));
  EXPECT_THAT(moved.flags(), ::testing::ElementsAre(flag_exact, flag_exact, flag_exact));
  EXPECT_EQ(moved.epoch(), 7U);
  const auto seen = router.seen();
  ASSERT_EQ(seen.size(), 1U);
  EXPECT_EQ(seen[0].layer().layer(), "3");
  EXPECT_EQ(seen[0].layer().degrade(), proto::RENORMALISE);
  EXPECT_GT(seen[0].layer().timeout_ms(), 4000U);
  EXPECT_LE(seen[0].layer().timeout_ms(), 5000U);
}

TEST_F(client_test, half_precision_goes_there_and_back) {
  fake_router router(address());
  auto cluster = connect();
  const std::vector<std::uint16_t> bits{1, 2, 3, 4, 5, 6};
  const auto result = cluster.layer("encoder.1", {dtype::bf16, 2, 3, bits.data()});
  EXPECT_EQ(result.type(), dtype::bf16);
  EXPECT_THAT(result.output_as<std::uint16_t>(), ::testing::ElementsAreArray(bits));
}

TEST_F(client_test, experts_sends_the_callers_choice) {
  std::promise<std::vector<std::vector<std::byte>>> tensors;
  fake_router router(address(), [&](fake_router& self, const request& asked) {
    tensors.set_value(asked.tensors);
    answer_double(self, asked);
  });
  auto cluster = connect();
  const std::vector<std::int32_t> ids{0, 1, 2, 3, -1, 5};
  const std::vector<float> weights{.1F, .2F, .3F, .4F, .5F, .6F};
  EXPECT_TRUE(is_doubled(cluster.experts(0, rows(), ids, weights)));
  const auto sent = tensors.get_future().get();
  EXPECT_EQ(std::memcmp(sent.at(1).data(), ids.data(), sent.at(1).size()), 0);
  EXPECT_EQ(std::memcmp(sent.at(2).data(), weights.data(), sent.at(2).size()), 0);
}

TEST_F(client_test, info_verbs_return_documents) {
  fake_router router(address());
  auto cluster = connect();
  EXPECT_THAT(cluster.status(), HasSubstr("\"kind\": 1"));
  EXPECT_THAT(cluster.nodes(), HasSubstr("\"kind\": 2"));
  EXPECT_THAT(cluster.list_experts("decoder.3"), HasSubstr("\"layer\": \"decoder.3\""));
  EXPECT_THAT(cluster.model(), HasSubstr("\"kind\": 4"));
}

TEST_F(client_test, bad_input_is_refused_before_it_is_sent) {
  fake_router router(address());
  auto cluster = connect();
  const std::vector<std::int32_t> ids(6);
  const std::vector<float> weights(6);
  const std::vector<std::function<void()>> calls{
      [&] { std::ignore = cluster.layer(-1, rows()); },
      [&] { std::ignore = cluster.layer("encoder", rows()); },
      [&] {
        std::ignore = cluster.layer(0, {dtype::f32, 0, 4, hidden_.data()});
      },
      [&] {
        std::ignore = cluster.layer(0, {dtype::f32, 3, 4, nullptr});
      },
      [&] {
        std::ignore = cluster.layer(0, {dtype::f32, std::size_t{1} << 62, 4, hidden_.data()});
      },
      [&] {
        std::ignore = cluster.layer(0, {static_cast<dtype>(9), 3, 4, hidden_.data()});
      },
      [&] { std::ignore = cluster.layer(0, rows(), {.policy = degrade::wait, .timeout = 0ms}); },
      [&] { std::ignore = cluster.layer(0, rows(), {.policy = static_cast<degrade>(9), .timeout = 1s}); },
      [&] { std::ignore = cluster.experts(0, rows(), ids, std::span(weights).first(3)); },
      [&] { std::ignore = cluster.experts(0, rows(), std::span(ids).first(4), std::span(weights).first(4)); },
      [&] { std::ignore = cluster.experts(0, rows(), ids, weights, {.policy = degrade::substitute, .timeout = 1s}); },
  };
  for (const auto& call : calls) {
    const auto caught = failure_of(call);
    EXPECT_EQ(caught.code(), error_code::invalid_request) << caught.what();
    EXPECT_FALSE(caught.retryable());
  }
  EXPECT_TRUE(router.seen().empty());
}

// faults.md W4: the transport would drop the connection without a word.
TEST_F(client_test, limits_of_the_router_are_kept_locally) {
  fake_router router(address());
  auto cluster = connect();
  const std::vector<float> many(64 * 8192);
  EXPECT_EQ(failure_of([&] {
              std::ignore = cluster.layer(0, {dtype::f32, 65, 4, many.data()});
            }).code(),
            error_code::too_large);
  EXPECT_EQ(failure_of([&] {
              std::ignore = cluster.layer(0, {dtype::f32, 64, 8192, many.data()});
            }).code(),
            error_code::too_large);
  EXPECT_TRUE(router.seen().empty());
}

TEST_F(client_test, failures_become_errors) {
  std::atomic<proto::ErrorCode> code{};
  fake_router router(address(), [&](fake_router& self, const request& asked) {
    answer_failure(self, asked, code, "what, to which; what next");
  });
  auto cluster = connect();
  for (const auto& [sent, retryable] : {std::pair{proto::INVALID_REQUEST, false},
                                        {proto::NOT_FOUND, false},
                                        {proto::UNAVAILABLE, true},
                                        {proto::TIMEOUT, true},
                                        {proto::OVERLOADED, true}}) {
    code = sent;
    const auto caught = failure_of([&] { std::ignore = cluster.layer(0, rows()); });
    EXPECT_EQ(static_cast<int>(caught.code()), static_cast<int>(sent));
    EXPECT_EQ(caught.retryable(), retryable);
    EXPECT_STREQ(caught.what(), "what, to which; what next");
  }
}

TEST_F(client_test, nobody_there_is_unavailable) {
  const auto caught = failure_of([&] {
    std::ignore = cluster::connect({.addresses = {address()}, .data_dir = folder_, .key_file = {}, .timeout = 200ms});
  });
  EXPECT_EQ(caught.code(), error_code::unavailable);
  EXPECT_THAT(caught.what(), HasSubstr("no router answered"));
}

TEST_F(client_test, a_silent_router_is_a_timeout) {
  fake_router router(address(), keep_silent);
  auto cluster = connect();
  const auto late =
      failure_of([&] { std::ignore = cluster.layer(0, rows(), {.policy = degrade::wait, .timeout = 1ms}); });
  EXPECT_EQ(late.code(), error_code::timeout);
  EXPECT_TRUE(late.retryable());
}

// faults.md W13.
TEST_F(client_test, late_and_doubled_answers_are_dropped) {
  std::unique_ptr<request> first;
  fake_router router(address(), [&](fake_router& self, const request& asked) {
    if (!first) {
      first = std::make_unique<request>(asked);
      return;
    }
    answer_layer(self, *first, 100);
    answer_double(self, asked);
    answer_double(self, asked);
  });
  auto cluster = connect();
  EXPECT_EQ(
      failure_of([&] { std::ignore = cluster.layer(0, rows(), {.policy = degrade::wait, .timeout = 1ms}); }).code(),
      error_code::timeout);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(is_doubled(cluster.layer(0, rows())));
}

TEST_F(client_test, handshake_is_repeated_when_the_router_forgot_it) {
  fake_router router(address());
  auto cluster = connect();
  router.forget_peers();
  EXPECT_TRUE(is_doubled(cluster.layer(0, rows())));
  EXPECT_EQ(router.hellos(), 2);
}

TEST_F(client_test, an_idle_connection_may_be_lost_without_harm) {
  auto router = std::make_unique<fake_router>(address());
  auto cluster = connect();
  for (int i = 0; i < 3; ++i) {
    router.reset();
    router = std::make_unique<fake_router>(address());
    EXPECT_TRUE(is_doubled(cluster.layer(0, rows())));
  }
}

TEST_F(client_test, a_request_survives_the_loss_of_its_router) {
  auto first = std::make_unique<fake_router>(address(), keep_silent);
  auto cluster = connect();
  auto result = std::async(std::launch::async, [&] { return cluster.layer(0, rows()); });
  ASSERT_TRUE(first->wait_until([&] { return first->seen().size() == 1; }));
  const auto before = first->seen()[0].layer();
  first.reset();
  const fake_router second(address());
  EXPECT_TRUE(is_doubled(result.get()));
  const auto after = second.seen().at(0).layer();
  EXPECT_EQ(after.request_id(), before.request_id());
  EXPECT_EQ(after.client_id(), before.client_id());
}

TEST_F(client_test, the_next_router_takes_over) {
  auto first = std::make_unique<fake_router>(address(0), keep_silent);
  const fake_router second(address(1));
  auto cluster = connect({address(0), address(1)});
  auto result = std::async(std::launch::async, [&] { return cluster.layer(0, rows()); });
  ASSERT_TRUE(first->wait_until([&] { return first->seen().size() == 1; }));
  first.reset();
  EXPECT_TRUE(is_doubled(result.get()));
  EXPECT_EQ(second.seen().size(), 1U);
}

// faults.md W12, the client's side.
TEST_F(client_test, in_progress_is_asked_again_under_the_same_id) {
  fake_router router(address(), [](fake_router& self, const request& asked) {
    if (self.seen().size() < 3) {
      answer_failure(self, asked, proto::IN_PROGRESS, "being executed");
    } else {
      answer_double(self, asked);
    }
  });
  auto cluster = connect();
  EXPECT_TRUE(is_doubled(cluster.layer(0, rows())));
  const auto seen = router.seen();
  ASSERT_EQ(seen.size(), 3U);
  EXPECT_EQ(seen[0].layer().request_id(), seen[2].layer().request_id());
}

// faults.md W7, the client's side.
TEST_F(client_test, an_answer_of_another_shape_is_never_used) {
  fake_router router(address(), [](fake_router& self, const request& asked) {
    auto changed = asked;
    changed.envelope.mutable_layer()->mutable_hidden()->set_shape(0, 1);
    changed.tensors[0].resize(4 * sizeof(float));
    answer_double(self, changed);
  });
  auto cluster = connect();
  EXPECT_EQ(failure_of([&] { std::ignore = cluster.layer(0, rows()); }).code(), error_code::corrupt);
}

// faults.md P11, the client's side.
TEST_F(client_test, a_router_of_another_cluster_is_refused) {
  auto router = std::make_unique<fake_router>(address());
  auto cluster = connect();
  router.reset();
  fake_router foreign(address());
  foreign.welcome.set_cluster_id("another-cluster");
  EXPECT_EQ(failure_of([&] { std::ignore = cluster.layer(0, rows()); }).code(), error_code::wrong_cluster);
  EXPECT_TRUE(foreign.seen().empty());
}

// Nobody reads the rows any more once the call has ended, so its caller may free them (AddressSanitizer watches).
TEST_F(client_test, rows_are_not_read_after_the_call) {
  fake_router router(address(), keep_silent);
  router.welcome.set_tensor_bytes_max(256U << 20);
  auto cluster = connect();
  for (int i = 0; i < 3; ++i) {
    auto large = std::make_unique<std::vector<float>>(64 * 65536);
    EXPECT_EQ(failure_of([&] {
                std::ignore =
                    cluster.layer(0, {dtype::f32, 64, 65536, large->data()}, {.policy = degrade::wait, .timeout = 1ms});
              }).code(),
              error_code::timeout);
    large.reset();
  }
}

TEST_F(client_test, calls_of_several_threads_are_safe) {
  fake_router router(address());
  auto cluster = connect();
  std::vector<std::future<bool>> callers;
  for (int i = 0; i < 4; ++i) {
    callers.push_back(std::async(std::launch::async, [&] {
      bool good = true;
      for (int call = 0; call < 50; ++call) good = is_doubled(cluster.layer(0, rows())) && good;
      return good;
    }));
  }
  for (auto& caller : callers) EXPECT_TRUE(caller.get());
}

}  // namespace
}  // namespace troupe::client
