#include <dlfcn.h>

#include <fmt/format.h>

#include "compute/gpu_runtime.hpp"

namespace troupe::compute {

result<std::unique_ptr<gpu_runtime>> open_gpu_runtime(const std::string& plugin, std::uint32_t index) {
  const auto refuse = [&](const std::string& why) {
    return fail(errc::unavailable, fmt::format("cuda:{} cannot be used: {}; use --device cpu", index, why));
  };
  void* library = ::dlopen(plugin.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return refuse(fmt::format("its plug-in does not load ({}); it is built where CMake finds CUDA", ::dlerror()));
  }
  // dlsym gives object pointers; POSIX says that they are functions here.
  const auto version = reinterpret_cast<gpu_runtime_version_function>(::dlsym(library, "troupe_gpu_runtime_version"));
  const auto open = reinterpret_cast<open_gpu_runtime_function>(::dlsym(library, "troupe_open_gpu_runtime"));
  if (version == nullptr || open == nullptr) return refuse(plugin + " is no plug-in of Troupe");
  if (const auto theirs = version(); theirs != gpu_runtime_version) {
    return refuse(fmt::format("{} is of another build (interface {}, this program has {}); install both together",
                              plugin, theirs, gpu_runtime_version));
  }
  result<std::unique_ptr<gpu_runtime>> opened = fail(errc::internal, "the plug-in gave no answer");
  open(index, &opened);
  if (!opened) return refuse(opened.error().message);
  return opened;
}

}  // namespace troupe::compute
