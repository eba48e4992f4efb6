// Both plug-ins are loaded alike: a file, a function that tells its version, one that opens a device.
#include <dlfcn.h>

#include <fmt/format.h>

#include "compute/gpu_link.hpp"
#include "compute/gpu_runtime.hpp"

namespace troupe::compute {
namespace {

struct plugin_facts {
  std::uint32_t version{};  // of this program's header
  const char* version_function{};
  const char* open_function{};
  const char* built_where{};
};

// The plug-in's opened device, or why not.
template <class Opened>
result<std::unique_ptr<Opened>> open_device(const std::string& plugin, std::uint32_t index, const plugin_facts& facts) {
  void* library = ::dlopen(plugin.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return fail(errc::unavailable, fmt::format("its plug-in does not load ({}); it is built where CMake finds {}",
                                               ::dlerror(), facts.built_where));
  }
  // dlsym gives object pointers; POSIX says that they are functions here.
  const auto version = reinterpret_cast<std::uint32_t (*)()>(::dlsym(library, facts.version_function));
  const auto open = reinterpret_cast<void (*)(std::uint32_t, result<std::unique_ptr<Opened>>*)>(
      ::dlsym(library, facts.open_function));
  if (version == nullptr || open == nullptr) return fail(errc::unavailable, plugin + " is no plug-in of Troupe");
  if (const auto theirs = version(); theirs != facts.version) {
    return fail(errc::unavailable,
                fmt::format("{} is of another build (interface {}, this program has {}); install both together", plugin,
                            theirs, facts.version));
  }
  result<std::unique_ptr<Opened>> opened = fail(errc::internal, "the plug-in gave no answer");
  open(index, &opened);
  return opened;
}

}  // namespace

result<std::unique_ptr<gpu_runtime>> open_gpu_runtime(const std::string& plugin, std::uint32_t index) {
  auto opened = open_device<gpu_runtime>(
      plugin, index, {gpu_runtime_version, "troupe_gpu_runtime_version", "troupe_open_gpu_runtime", "CUDA"});
  if (opened) return opened;
  return fail(errc::unavailable,
              fmt::format("cuda:{} cannot be used: {}; use --device cpu", index, opened.error().message));
}

result<std::unique_ptr<gpu_link_backend>> open_gpu_link(const std::string& plugin, std::uint32_t index) {
  auto opened = open_device<gpu_link_backend>(
      plugin, index, {gpu_link_version, "troupe_gpu_link_version", "troupe_open_gpu_link", "CUDA and NCCL"});
  if (opened) return opened;
  return fail(errc::unavailable, fmt::format("cuda:{} cannot be linked with other GPUs: {}; bundles take another way",
                                             index, opened.error().message));
}

}  // namespace troupe::compute
