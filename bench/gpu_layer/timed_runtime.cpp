#include "bench/gpu_layer/timed_runtime.hpp"

#include <chrono>
#include <optional>
#include <utility>

namespace troupe::bench {
namespace {

using namespace compute;
using clock = std::chrono::steady_clock;

class timed_runtime final : public gpu_runtime {
 public:
  timed_runtime(std::unique_ptr<gpu_runtime> inner, std::shared_ptr<device_stopwatch> watch)
      : inner_(std::move(inner)), watch_(std::move(watch)) {}

  gpu_facts facts() const override { return inner_->facts(); }
  result<std::byte*> allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void release(std::byte* memory) override { inner_->release(memory); }
  result<std::byte*> allocate_host(std::size_t bytes) override { return inner_->allocate_host(bytes); }
  void release_host(std::byte* memory) override { inner_->release_host(memory); }

  void upload(gpu_stream stream, std::byte* device, const std::byte* host, std::size_t bytes) override {
    inner_->upload(stream, device, host, bytes);
    if (!is_timed(stream)) return;
    drain();
    begin_ = clock::now();
  }
  void download(gpu_stream stream, std::byte* host, const std::byte* device, std::size_t bytes) override {
    if (is_timed(stream)) {
      drain();
      watch_->seconds += std::chrono::duration<double>(clock::now() - begin_).count();
    }
    inner_->download(stream, host, device, bytes);
  }

  void multiply(const products_work& work) override { inner_->multiply(work); }
  void combine(const combine_work& work) override { inner_->combine(work); }
  std::size_t scratch_bytes(const expert_form& form, std::size_t assignments) const override {
    return inner_->scratch_bytes(form, assignments);
  }

  result<void> finish(gpu_stream stream) override {
    auto done = inner_->finish(stream);
    if (stream == gpu_stream::load || !trouble_) return done;
    return fail(*std::exchange(trouble_, std::nullopt));
  }
  bool is_lost() const override { return inner_->is_lost(); }

 private:
  [[nodiscard]] bool is_timed(gpu_stream stream) const { return watch_->is_on && stream == gpu_stream::compute; }
  // The first error waits for the caller's own finish.
  void drain() {
    if (auto done = inner_->finish(gpu_stream::compute); !done && !trouble_) trouble_ = done.error();
  }

  std::unique_ptr<gpu_runtime> inner_;
  std::shared_ptr<device_stopwatch> watch_;
  clock::time_point begin_;
  std::optional<error> trouble_;
};

}  // namespace

std::unique_ptr<compute::gpu_runtime> make_timed_runtime(std::unique_ptr<compute::gpu_runtime> inner,
                                                         std::shared_ptr<device_stopwatch> watch) {
  return std::make_unique<timed_runtime>(std::move(inner), std::move(watch));
}

}  // namespace troupe::bench
