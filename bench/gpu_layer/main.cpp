// What scripts/gpu-check runs: parity with f64, then times of two layers, on plain loops and on a CUDA device.
//
//   gpu_check parity DEVICE [--small]       DEVICE: loops or cuda:N; --small: published sizes at a sixteenth
//   gpu_check bench DEVICE [--torch FILE]   FILE: lines of torch_layer.py
//   gpu_check self-send|two-processes cuda:N    a bundle over NCCL, with cuda:N+1 in the second process
//
// Exit status: 0 passed, 1 failed, 77 skipped because the device cannot be used here (the reason is printed).
#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>

#include "bench/gpu_layer/card_limits.hpp"
#include "bench/gpu_layer/layer_times.hpp"
#include "bench/gpu_layer/link_check.hpp"
#include "tests/compute/loop_gpu.hpp"
#include "tests/compute/parity.hpp"

namespace troupe::bench {
namespace {

using compute::gpu_runtime;
using compute::test::parity_case;

constexpr int passed = 0;
constexpr int failed = 1;
constexpr int skipped = 77;
constexpr unsigned parity_threads_max = 8;  // the largest case takes 7 GiB of host memory

struct arguments {
  std::string what;
  std::string device;
  bool is_small{false};
  std::string torch_file{};
  std::string key{};

  [[nodiscard]] bool is_loops() const { return device == "loops"; }
};

std::optional<std::uint32_t> cuda_index(std::string_view device) {
  if (!device.starts_with("cuda:")) return std::nullopt;
  device.remove_prefix(5);
  std::uint32_t index = 0;
  const auto [end, trouble] = std::from_chars(device.data(), device.data() + device.size(), index);
  if (trouble != std::errc{} || end != device.data() + device.size()) return std::nullopt;
  return index;
}

std::optional<arguments> parse(int count, char** words) {
  if (count < 3) return std::nullopt;
  arguments given{.what = words[1], .device = words[2]};
  for (int at = 3; at < count; ++at) {
    const std::string_view word = words[at];
    if (word == "--small") {
      given.is_small = true;
    } else if (word == "--torch" && at + 1 < count) {
      given.torch_file = words[++at];
    } else if (word == "--key" && at + 1 < count) {
      given.key = words[++at];
    } else {
      return std::nullopt;
    }
  }
  const auto is_one_of = [&](const auto&... names) { return ((given.what == names) || ...); };
  const bool is_link = is_one_of("self-send", "two-processes", "second-process");
  if (!is_link && !is_one_of("parity", "bench")) return std::nullopt;
  if (!cuda_index(given.device) && (is_link || !given.is_loops())) return std::nullopt;
  return given;
}

std::string file_beside_program(const char* name) {
  return std::filesystem::read_symlink("/proc/self/exe").replace_filename(name).string();
}

result<std::unique_ptr<gpu_runtime>> open_runtime(const std::string& device) {
  if (device == "loops") return compute::test::make_loop_gpu(std::make_shared<compute::test::loop_gpu_state>());
  return compute::open_gpu_runtime(file_beside_program("libtroupe_cuda.so"), *cuda_index(device));
}

// -- parity -------------------------------------------------------------------------------------------------------

struct parity_verdict {
  bool is_close{};
  std::string words;
};

parity_verdict compare(const arguments& given, dtype type, const parity_case& c) {
  auto runtime = open_runtime(given.device);
  auto device = runtime ? compute::make_gpu_device(std::move(*runtime), type)
                        : result<std::unique_ptr<compute::device>>{fail(runtime.error())};
  result<compute::test::parity_outcome> outcome = device ? compute::test::compare_with_f64(**device, type, c)
                                                         : result<compute::test::parity_outcome>{fail(device.error())};
  if (!outcome) return {.is_close = false, .words = "FAILED: " + outcome.error().message};
  const double allowed = compute::test::tolerance_of(type);
  const bool is_close = outcome->share <= allowed && outcome->norm_share <= allowed;
  std::array<char, 100> words{};
  std::snprintf(words.data(), words.size(), "%.1e of the peak, norms %.1e, allowed %.0e  %s", outcome->share,
                outcome->norm_share, allowed, is_close ? "ok" : "FAILED");
  return {.is_close = is_close, .words = words.data()};
}

// Several at a time: the reference in f64 takes by far the longest.
int check_parity(const arguments& given, const compute::gpu_facts& facts) {
  std::printf("parity of %s (%s) with f64\n", facts.name.c_str(), facts.description.c_str());
  const auto cases = compute::test::parity_cases(given.is_small || given.is_loops() ? 16 : 1);
  std::mutex output;
  std::atomic<std::size_t> next{0};
  int good = 0;
  int bad = 0;
  const auto work = [&] {
    for (auto at = next++; at < 2 * cases.size(); at = next++) {
      const auto& c = cases[at / 2];
      const auto type = at % 2 == 0 ? dtype::f32 : dtype::bf16;
      const auto verdict = compare(given, type, c);
      const std::lock_guard lock{output};
      ++(verdict.is_close ? good : bad);
      std::printf("  %-17s %5u x %-5u  %3u experts %5u rows  %-4s  %s\n", c.name.c_str(), c.shape.hidden, c.shape.width,
                  c.experts, c.rows, std::string{to_string(type)}.c_str(), verdict.words.c_str());
      std::fflush(stdout);
    }
  };
  {
    std::vector<std::jthread> threads;
    const auto count = std::clamp(std::thread::hardware_concurrency(), 1U, parity_threads_max);
    for (unsigned thread = 0; thread < count; ++thread) threads.emplace_back(work);
  }
  std::printf("parity of %s: %d passed, %d failed\n", facts.name.c_str(), good, bad);
  return bad == 0 ? passed : failed;
}

// -- bench --------------------------------------------------------------------------------------------------------

using torch_times = std::map<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>, double>;

// Lines "hidden width experts rows microseconds"; others are passed over.
torch_times read_torch_times(const std::string& file) {
  torch_times times;
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    unsigned hidden = 0, width = 0, experts = 0, rows = 0;
    double microseconds = 0;
    if (std::sscanf(line.c_str(), "%u %u %u %u %lf", &hidden, &width, &experts, &rows, &microseconds) == 5) {
      times[{hidden, width, experts, rows}] = microseconds;
    }
  }
  return times;
}

void print_share(double limit_seconds, double seconds) {
  if (limit_seconds > 0) {
    std::printf(" %6.2f", limit_seconds / seconds);
  } else {
    std::printf(" %6s", "-");
  }
}

void print_times(const layer_size& size, const std::vector<layer_time>& times, const card_limits& card,
                 const torch_times& torch) {
  std::printf("\nhidden %u, width %u, %u experts, top-%u, bf16\n", size.hidden, size.width, size.experts, size.top_k);
  std::printf("  rows  device us   whole us  bytes  arith. nearer  torch us  torch/ours\n");
  for (const auto& time : times) {
    std::printf("  %4u %10.1f %10.1f", time.rows, time.device_seconds * 1e6, time.whole_seconds * 1e6);
    const bool is_known = card.bytes_per_second > 0;
    const double bytes = is_known ? time.weight_bytes / card.bytes_per_second : 0;
    const double arithmetic = is_known ? time.operations / card.operations_per_second : 0;
    for (const double limit : {bytes, arithmetic, std::max(bytes, arithmetic)}) print_share(limit, time.device_seconds);
    const auto at = torch.find({size.hidden, size.width, size.experts, time.rows});
    if (at == torch.end()) {
      std::printf(" %9s %11s\n", "-", "-");
    } else {
      std::printf(" %9.1f %11.2f\n", at->second, at->second / (time.device_seconds * 1e6));
    }
  }
}

// False: it could not be measured.
bool print_loading_cost(const arguments& given, const layer_size& size) {
  const std::uint32_t rows = given.is_loops() ? 1 : 64;
  auto runtime = open_runtime(given.device);
  const auto cost =
      runtime ? time_while_loading(std::move(*runtime), size, rows) : result<loading_cost>{fail(runtime.error())};
  if (!cost) {
    std::printf("FAILED: %s\n", cost.error().message.c_str());
    return false;
  }
  std::printf(
      "  p99 of batches of %u rows: %.1f us, while %u bundles were loaded one after the other %.1f us (%+.0f %%)\n",
      rows, cost->alone_p99_seconds * 1e6, cost->loads, cost->loading_p99_seconds * 1e6,
      100 * (cost->loading_p99_seconds / cost->alone_p99_seconds - 1));
  return true;
}

int run_bench(const arguments& given, const compute::gpu_facts& facts) {
  std::printf("layers on %s (%s)\n", facts.name.c_str(), facts.description.c_str());
  std::vector<layer_size> sizes{{2048, 1024, 64, 8}, {7168, 2048, 32, 8}};
  std::vector<std::uint32_t> rows{1, 8, 64, 512, 4096};
  card_limits card;
  if (given.is_loops()) {
    for (auto& size : sizes) {
      size.hidden /= 64;
      size.width /= 64;
    }
    rows = {1, 8};
    std::printf("sizes at a sixty-fourth, times without meaning: this shows that the bench runs\n");
  } else {
    auto measured = measure_card(*cuda_index(given.device));
    if (!measured) {
      std::printf("FAILED: %s\n", measured.error().message.c_str());
      return failed;
    }
    card = *measured;
    std::printf(
        "limits, measured: %.0f GB/s read and written by a copy on the card, %.0f TFLOP/s in one bf16 product\n",
        card.bytes_per_second * 1e-9, card.operations_per_second * 1e-12);
  }
  const auto torch = read_torch_times(given.torch_file);
  for (const auto& size : sizes) {
    auto runtime = open_runtime(given.device);
    auto times =
        runtime ? time_layer(std::move(*runtime), size, rows) : result<std::vector<layer_time>>{fail(runtime.error())};
    if (!times) {
      std::printf("FAILED: %s\n", times.error().message.c_str());
      return failed;
    }
    print_times(size, *times, card, torch);
    if (!print_loading_cost(given, size)) return failed;
    std::fflush(stdout);
  }
  std::printf(
      "\ndevice: medians from the rows to their sums on the card; whole: from and to host memory. bytes, arith.:\n"
      "share of what the card could do were it bound by reading each expert's weights once, or by arithmetic alone.\n");
  return passed;
}

// -- links --------------------------------------------------------------------------------------------------------

int check_link(const arguments& given) {
  const link_ends ends{
      .open_runtime = [](std::uint32_t index) { return open_runtime("cuda:" + std::to_string(index)); },
      .open_link =
          [](std::uint32_t index) { return compute::open_gpu_link(file_beside_program("libtroupe_nccl.so"), index); }};
  const auto index = *cuda_index(given.device);
  if (auto link = ends.open_link(index); !link) {
    std::printf("skipped: %s of %s: %s\n", given.what.c_str(), given.device.c_str(), link.error().message.c_str());
    return skipped;
  }
  const auto outcome = given.what == "self-send" ? check_self_send(ends, index)
                       : given.what == "two-processes"
                           ? check_two_processes(ends, index, file_beside_program("gpu_check"))
                           : receive_from_first(ends, index, given.key);
  if (outcome) {
    std::printf("%s of %s over NCCL: %s\n", given.what.c_str(), given.device.c_str(), outcome->c_str());
    return passed;
  }
  const bool is_alone = given.what == "two-processes" && outcome.error().code == errc::not_found;
  std::printf("%s: %s of %s over NCCL: %s\n", is_alone ? "skipped" : "FAILED", given.what.c_str(), given.device.c_str(),
              outcome.error().message.c_str());
  return is_alone ? skipped : failed;
}

int run(const arguments& given) {
  auto runtime = open_runtime(given.device);
  if (!runtime) {
    std::printf("skipped: %s of %s: %s\n", given.what.c_str(), given.device.c_str(), runtime.error().message.c_str());
    return skipped;
  }
  const auto facts = (*runtime)->facts();
  runtime->reset();
  if (given.what != "parity" && given.what != "bench") return check_link(given);
  return given.what == "parity" ? check_parity(given, facts) : run_bench(given, facts);
}

}  // namespace
}  // namespace troupe::bench

int main(int count, char** words) {
  const auto given = troupe::bench::parse(count, words);
  if (!given) {
    std::fprintf(stderr, "usage: gpu_check parity|bench loops|cuda:N [--small] [--torch FILE]\n");
    return 2;
  }
  return troupe::bench::run(*given);
}
