// A generation engine for tests of the doors: one thread, no model. Every answer is the same sentence, begun at a place
// that the seed chooses, with made-up log probabilities. Words in the prompt make it misbehave:
//
//   @refuse          generate() says overloaded            @gone            generate() says unavailable
//   @hold N          after N tokens nothing more comes     @unavailable N   after N tokens an error; @timeout N too
//   @inexact N       token N is substituted                @flood           64 KiB of text per token, without an end
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "model/tokenizer/tokenizer.hpp"
#include "router_node/core/generation.hpp"

namespace troupe::router::testing {

// What the doors did to it; any thread.
struct fake_counts {
  std::uint64_t accepted{};
  std::uint64_t cancelled{};
  std::uint64_t running{};
};

class fake_generation final : public generation_gateway {
 public:
  // `tokenizer` outlives it; nullptr: token ids 1, 2, 3 ... without text.
  explicit fake_generation(const model::tokenizer* tokenizer, generation_limits limits);
  ~fake_generation() override;

  [[nodiscard]] const generation_limits& limits() const override { return limits_; }
  [[nodiscard]] result<std::uint64_t> generate(generation_job job) override;
  void cancel(std::uint64_t number) override;

  [[nodiscard]] fake_counts counts() const;
  // The request of the last accepted job.
  [[nodiscard]] generation_request last() const;

 private:
  struct answer;
  void run();
  bool step(std::uint64_t number, answer& one);
  [[nodiscard]] bool is_running(std::uint64_t number) const;
  void forget(std::uint64_t number);

  const model::tokenizer* const tokenizer_;
  const generation_limits limits_;
  std::vector<token_number> sentence_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::map<std::uint64_t, std::shared_ptr<answer>> answers_;
  generation_request last_;
  fake_counts counts_;
  std::uint64_t numbered_{};
  bool stopping_{};
  std::thread thread_;
};

}  // namespace troupe::router::testing
