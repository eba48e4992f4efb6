// `troupe bench generate`: random prompts through the cluster's text door, so many at a time, and when each token came.
// Threads: run_generate_bench() makes one per stream.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"

namespace troupe::cli {

struct generate_bench_options {
  std::vector<std::uint32_t> concurrency{1, 8, 32};
  std::uint32_t prompt_tokens{128};
  std::uint32_t output_tokens{64};
  std::uint32_t requests{};  // per concurrency; 0: four rounds, at least eight
  bool is_http{};
  std::uint64_t seed{20};
};

using bench_clock = std::chrono::steady_clock;

// One answer: when it was asked for and when its tokens came. Tokens that came together have one time.
struct request_times {
  bench_clock::time_point begun;
  std::vector<bench_clock::time_point> tokens;
};

struct distribution {  // ms
  double p50{};
  double p95{};
  double p99{};
};

struct generate_bench_row {
  std::uint32_t concurrency{};
  std::uint32_t requests{};
  std::uint32_t failed{};
  std::uint64_t output_tokens{};
  double seconds{};
  distribution first_token{};     // from the request to its first token
  distribution between_tokens{};  // gaps between two tokens of one answer
  distribution whole{};           // from the request to its last token
  double output_tokens_per_second{};
  double requests_per_second{};
  std::string first_error{};
};

// The numbers of a run that lasted from `begun` to `ended`. Pure.
[[nodiscard]] generate_bench_row summarise(std::uint32_t concurrency, std::span<const request_times> answers,
                                           bench_clock::duration lasted);

// One connection to the cluster. One thread at a time.
class token_source {
 public:
  virtual ~token_source() = default;
  // Asks for an answer of exactly so many tokens and calls `on_tokens` as they come. Ends early, without an error, when
  // somebody pressed Ctrl-C.
  [[nodiscard]] virtual result<void> ask(std::span<const std::uint32_t> prompt, std::uint32_t output_tokens,
                                         const std::function<void(std::uint32_t count)>& on_tokens) = 0;
};
using token_source_maker = std::function<result<std::unique_ptr<token_source>>()>;

// `vocabulary`: prompts are drawn below it. `progress`: (done, all) requests of all levels. cancelled: Ctrl-C.
[[nodiscard]] result<std::vector<generate_bench_row>> run_generate_bench(
    const generate_bench_options& options, std::uint32_t vocabulary, const token_source_maker& connect,
    const std::function<void(std::uint64_t done, std::uint64_t all)>& progress);

}  // namespace troupe::cli
