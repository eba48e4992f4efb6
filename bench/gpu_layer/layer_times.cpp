#include "bench/gpu_layer/layer_times.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

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

// A device with every expert of the layer and one slot more. One expert's values in all of them: what they are makes no
// difference, where they lie does.
result<std::unique_ptr<compute::device>> fill_device(std::unique_ptr<compute::gpu_runtime> runtime,
                                                     const layer_size& size,
                                                     const compute::test::sample_expert& sample) {
  auto device = compute::make_gpu_device(std::move(runtime), dtype::bf16);
  if (!device) return device;
  auto room = (*device)->reserve(size.experts + 1, (*device)->slot_bytes(size.shape()));
  if (!room) return fail(room.error());
  for (std::uint32_t e = 0; e < size.experts; ++e) {
    if (auto done = (*device)->load({e}, sample.layout, sample.bundle); !done) return fail(done.error());
  }
  return device;
}

// Of a second's batches.
result<double> p99_of(compute::device& device, compute::test::sample_batch& work) {
  std::vector<double> times;
  for (const auto begin = clock::now(); clock::now() - begin < std::chrono::seconds{1} || times.size() < runs_min;) {
    const auto started = clock::now();
    if (auto done = device.run(work.view(), work.reports); !done) return fail(done.error());
    times.push_back(std::chrono::duration<double>(clock::now() - started).count());
  }
  std::ranges::sort(times);
  return times[times.size() * 99 / 100];
}

}  // namespace

result<loading_cost> time_while_loading(std::unique_ptr<compute::gpu_runtime> runtime, const layer_size& size,
                                        std::uint32_t rows) {
  const auto sample = make_sample(size.shape(), dtype::bf16, stored_form::separate, 1);
  auto device = fill_device(std::move(runtime), size, sample);
  if (!device) return fail(device.error());
  auto work = make_batch(size.shape(), dtype::bf16, rows, size.experts, size.top_k, rows);
  if (auto warm = p99_of(**device, work); !warm) return fail(warm.error());
  const auto alone = p99_of(**device, work);
  if (!alone) return fail(alone.error());

  loading_cost cost{.alone_p99_seconds = *alone};
  std::atomic<bool> is_over{false};
  result<void> loaded;
  std::thread loader{[&] {
    const slot_index spare{size.experts};
    while (!is_over && loaded) {
      loaded = (*device)->load(spare, sample.layout, sample.bundle);
      (*device)->unload(spare);
      ++cost.loads;
    }
  }};
  const auto meanwhile = p99_of(**device, work);
  is_over = true;
  loader.join();
  if (!meanwhile) return fail(meanwhile.error());
  if (!loaded) return fail(loaded.error());
  cost.loading_p99_seconds = *meanwhile;
  return cost;
}

result<std::vector<layer_time>> time_layer(std::unique_ptr<compute::gpu_runtime> runtime, const layer_size& size,
                                           const std::vector<std::uint32_t>& row_counts) {
  auto watch = std::make_shared<device_stopwatch>();
  const auto sample = make_sample(size.shape(), dtype::bf16, stored_form::separate, 1);
  auto device = fill_device(make_timed_runtime(std::move(runtime), watch), size, sample);
  if (!device) return fail(device.error());
  std::vector<layer_time> times;
  for (const auto rows : row_counts) {
    auto time = time_rows(**device, *watch, size, rows);
    if (!time) return fail(time.error());
    times.push_back(*time);
  }
  return times;
}

}  // namespace troupe::bench
