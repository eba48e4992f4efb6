#include "bench/gpu_layer/layer_times.hpp"

#include <algorithm>
#include <chrono>
#include <functional>

#include "tests/compute/sample_expert.hpp"

namespace troupe::bench {
namespace {

using compute::test::make_batch;
using compute::test::make_sample;
using compute::test::stored_form;
using clock = std::chrono::steady_clock;

constexpr std::size_t runs_min = 5;
constexpr std::size_t runs_max = 101;
constexpr double seconds_max = 2;

// `run` gives the seconds that count.
result<double> median_of(const std::function<result<double>()>& run) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) {
    if (auto first = run(); !first) return first;
  }
  std::vector<double> times;
  const auto begin = clock::now();
  while (times.size() < runs_max) {
    auto seconds = run();
    if (!seconds) return seconds;
    times.push_back(*seconds);
    if (times.size() >= runs_min && std::chrono::duration<double>(clock::now() - begin).count() > seconds_max) break;
  }
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  return times[times.size() / 2];
}

result<layer_time> time_rows(compute::device& device, device_stopwatch& watch, const layer_size& size,
                             std::uint32_t rows) {
  auto work = make_batch(size.shape(), dtype::bf16, rows, size.experts, size.top_k, rows);
  const auto run_once = [&]() -> result<double> {
    watch.seconds = 0;
    const auto begin = clock::now();
    if (auto done = device.run(work.view(), work.reports); !done) return fail(done.error());
    return watch.is_on ? watch.seconds : std::chrono::duration<double>(clock::now() - begin).count();
  };
  layer_time time{.rows = rows};
  for (auto [is_on, seconds] : {std::pair{true, &time.device_seconds}, {false, &time.whole_seconds}}) {
    watch.is_on = is_on;
    auto median = median_of(run_once);
    if (!median) return fail(median.error());
    *seconds = *median;
  }
  const double weights = 3.0 * size.hidden * size.width;
  const auto has_rows = [](const auto& group) { return !group.empty(); };
  time.weight_bytes = static_cast<double>(std::ranges::count_if(work.group_rows, has_rows)) * weights * 2;
  time.operations = 2 * weights * rows * size.top_k;
  return time;
}

}  // namespace

result<std::vector<layer_time>> time_layer(std::unique_ptr<compute::gpu_runtime> runtime, const layer_size& size,
                                           const std::vector<std::uint32_t>& row_counts) {
  auto watch = std::make_shared<device_stopwatch>();
  auto device = compute::make_gpu_device(make_timed_runtime(std::move(runtime), watch), dtype::bf16);
  if (!device) return fail(device.error());
  auto room = (*device)->reserve(size.experts, (*device)->slot_bytes(size.shape()));
  if (!room) return fail(room.error());
  // One expert's values in every slot: what they are makes no difference, where they lie does.
  const auto sample = make_sample(size.shape(), dtype::bf16, stored_form::separate, 1);
  for (std::uint32_t e = 0; e < size.experts; ++e) {
    if (auto done = (*device)->load({e}, sample.layout, sample.bundle); !done) return fail(done.error());
  }
  std::vector<layer_time> times;
  for (const auto rows : row_counts) {
    auto time = time_rows(**device, *watch, size, rows);
    if (!time) return fail(time.error());
    times.push_back(*time);
  }
  return times;
}

}  // namespace troupe::bench
