// The loops of loop_gpu.hpp as a plug-in, for whole processes on a machine without a GPU. The device of process PID is
// lost as soon as a file "break.PID" lies beside the plug-in.
#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>

#include "tests/compute/loop_gpu.hpp"

namespace {

std::filesystem::path folder_of_this_library() {
  Dl_info found{};
  static const int inside = 0;
  return ::dladdr(&inside, &found) == 0 ? "" : std::filesystem::path{found.dli_fname}.parent_path();
}

}  // namespace

extern "C" {

[[gnu::visibility("default")]] std::uint32_t troupe_gpu_runtime_version() {
  return troupe::compute::gpu_runtime_version;
}

[[gnu::visibility("default")]] void troupe_open_gpu_runtime(
    std::uint32_t, troupe::result<std::unique_ptr<troupe::compute::gpu_runtime>>* opened) {
  auto state = std::make_shared<troupe::compute::test::loop_gpu_state>();
  const auto sign = folder_of_this_library() / ("break." + std::to_string(::getpid()));
  state->breaks = [sign] { return std::filesystem::exists(sign); };
  *opened = troupe::compute::test::make_loop_gpu(std::move(state));
}

}  // extern "C"
