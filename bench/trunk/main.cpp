// How fast the trunk alone is, on a random model: prefill of one prompt, and decode steps of several sequences.
//
//   bench_trunk [--hidden H --layers L --heads A --kv-heads K --vocabulary V --context T --threads N --dtype bf16|f32]
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "bench/trunk/random_checkpoint.hpp"
#include "common/limits.hpp"
#include "model/checkpoint.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::bench {
namespace {

using router::trunk;
using router::trunk_rows;
using seconds = std::chrono::duration<double>;

double elapsed_since(std::chrono::steady_clock::time_point begin) {
  return seconds{std::chrono::steady_clock::now() - begin}.count();
}

template <class T>
T value_of(result<T> outcome) {
  if (outcome) return std::move(*outcome);
  fmt::print(stderr, "error: {}\n", outcome.error().message);
  std::exit(1);
}

void check(const result<void>& outcome) {
  if (outcome) return;
  fmt::print(stderr, "error: {}\n", outcome.error().message);
  std::exit(1);
}

struct step_times {
  double attend{};
  double head{};
};

class runner {
 public:
  runner(trunk& under_test, std::uint32_t sequences) : trunk_(under_test), blocks_(sequences) {
    auto per_sequence = trunk_.kv_blocks() / sequences;
    for (std::uint32_t s = 0; s < sequences; ++s) {
      for (std::uint32_t b = 0; b < per_sequence; ++b) blocks_[s].push_back(b * sequences + s);
    }
  }

  // One step of `rows` rows of every sequence from `position` on; logits of each one's last row.
  step_times step(std::uint32_t position, std::uint32_t rows) {
    std::vector<trunk_rows> pieces;
    std::vector<std::uint32_t> last;
    for (const auto& blocks : blocks_) {
      pieces.push_back({.first_position = position, .rows = rows, .blocks = blocks});
      last.push_back(static_cast<std::uint32_t>(pieces.size()) * rows - 1);
    }
    std::vector<token_number> tokens(pieces.size() * rows);
    for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<token_number>(i * 31 % trunk_.vocabulary());
    x_.resize(tokens.size() * trunk_.hidden());
    normed_.resize(x_.size());
    logits_.resize(last.size() * trunk_.vocabulary());
    auto begin = std::chrono::steady_clock::now();
    trunk_.embed(tokens, x_.data());
    for (std::uint32_t block = 0; block < trunk_.layers(); ++block) {
      check(trunk_.attend(block, pieces, x_.data(), normed_.data()));
    }
    step_times times{.attend = elapsed_since(begin), .head = 0};
    begin = std::chrono::steady_clock::now();
    check(trunk_.logits(last, x_.data(), logits_.data()));
    times.head = elapsed_since(begin);
    return times;
  }

 private:
  trunk& trunk_;
  std::vector<std::vector<std::uint32_t>> blocks_;
  std::vector<float> x_, normed_, logits_;
};

step_times median_of(std::vector<step_times> all) {
  auto middle = all.begin() + static_cast<std::ptrdiff_t>(all.size() / 2);
  std::ranges::nth_element(all, middle, {}, [](const step_times& t) { return t.attend + t.head; });
  return *middle;
}

// What a step reads and computes, from the sizes alone.
struct step_cost {
  double weight_bytes, kv_bytes, flops;
};

step_cost cost_of(const checkpoint_sizes& sizes, std::uint32_t sequences, std::uint32_t position, std::uint32_t rows,
                  double element) {
  double hidden = sizes.hidden;
  double keys = hidden / sizes.heads * sizes.kv_heads;
  double per_layer = hidden * (2 * hidden + 2 * keys);
  double head = hidden * sizes.vocabulary;
  double seen = rows * (position + (rows + 1) / 2.0);  // tokens, over all rows of a sequence
  double kv = 2 * keys * element * sizes.layers * (position + rows);
  double flops = sizes.layers * (2 * per_layer * rows + 4 * seen * hidden) + 2 * head;
  return {(sizes.layers * per_layer + head) * element, kv * sequences, flops * sequences};
}

void report(const char* what, const checkpoint_sizes& sizes, std::uint32_t sequences, std::uint32_t position,
            std::uint32_t rows, double element, const step_times& t) {
  auto cost = cost_of(sizes, sequences, position, rows, element);
  double total = t.attend + t.head;
  fmt::print(
      "{:8} {:3} x {:4} rows at {:4}: {:8.2f} ms (head {:5.2f}), {:8.0f} tokens/s, {:5.1f} GB/s, {:6.1f} GFLOP/s\n",
      what, sequences, rows, position, total * 1e3, t.head * 1e3, sequences * rows / total,
      (cost.weight_bytes + cost.kv_bytes) / total / 1e9, cost.flops / total / 1e9);
}

std::uint32_t number_of(const std::map<std::string, std::string>& flags, const std::string& name,
                        std::uint32_t fallback) {
  auto found = flags.find("--" + name);
  return found == flags.end() ? fallback : static_cast<std::uint32_t>(std::strtoul(found->second.c_str(), nullptr, 10));
}

int run(int argc, char** argv) {
  std::map<std::string, std::string> flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  checkpoint_sizes sizes{.hidden = number_of(flags, "hidden", 1024),
                         .layers = number_of(flags, "layers", 8),
                         .heads = number_of(flags, "heads", 16),
                         .kv_heads = number_of(flags, "kv-heads", 4),
                         .vocabulary = number_of(flags, "vocabulary", 4096)};
  auto context = number_of(flags, "context", 512);
  auto type = flags.contains("--dtype") && flags.at("--dtype") == "f32" ? dtype::f32 : dtype::bf16;
  auto element = static_cast<double>(bytes_per_element(type));
  auto folder = write_random_checkpoint(sizes);
  auto checkpoint = value_of(model::checkpoint::open(folder));
  for (std::uint32_t sequences : {1U, 8U, 32U}) {
    std::uint64_t row =
        std::uint64_t{sizes.layers} * sizes.kv_heads * (sizes.hidden / sizes.heads) * 2 * bytes_per_element(type);
    auto made = value_of(trunk::make(
        checkpoint,
        {.type = type, .threads = number_of(flags, "threads", 2), .kv_bytes = row * (context + 64) * sequences}));
    runner r(*made, sequences);
    std::vector<step_times> times;
    for (int i = 0; i < (sequences == 1 ? 9 : 2); ++i) times.push_back(r.step(0, context));
    report("prefill", sizes, sequences, 0, context, element, median_of(times));
    times.clear();
    for (std::uint32_t i = 0; i < 40; ++i) times.push_back(r.step(context + i, 1));
    report("decode", sizes, sequences, context, 1, element, median_of(times));
  }
  std::filesystem::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace troupe::bench

int main(int argc, char** argv) { return troupe::bench::run(argc, argv); }
