#include "common/daemon/data_folder.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <system_error>
#include <thread>
#include <utility>

namespace troupe::daemon {
namespace {

namespace fs = std::filesystem;

using std::chrono::steady_clock;

constexpr mode_t private_mode = S_IRWXU;
// How long a new process waits for one that is ending, and how often it looks.
constexpr std::chrono::seconds ending_process_max{5};
constexpr std::chrono::milliseconds look_interval{10};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string{} : std::string(value);
}

// Who has the lock, as far as its file tells.
std::string holder_of(int descriptor) {
  std::array<char, 32> text{};
  const auto got = ::pread(descriptor, text.data(), text.size() - 1, 0);
  const std::string pid(text.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
  return pid.empty() ? std::string("unknown") : pid.substr(0, pid.find('\n'));
}

// Its first thread has gone. The others, and with them its locks, follow when they get a processor: on a busy machine
// that is long after the process looks dead to whoever starts it anew.
bool is_ending(const std::string& pid) {
  std::ifstream file("/proc/" + pid + "/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto name_end = text.rfind(") ");
  return name_end == std::string::npos || text.find_first_of("ZX", name_end) == name_end + 2;
}

}  // namespace

fs::path default_data_folder() {
  if (auto chosen = environment("TROUPE_DATA_DIR"); !chosen.empty()) return chosen;
  if (auto state = environment("XDG_STATE_HOME"); !state.empty()) return fs::path(state) / "troupe" / "default";
  const auto home = environment("HOME");
  return fs::path(home.empty() ? "/" : home) / ".local" / "state" / "troupe" / "default";
}

result<void> prepare_private_folder(const fs::path& folder) {
  struct stat info {};
  if (::stat(folder.c_str(), &info) != 0) {
    std::error_code failure;
    fs::create_directories(folder.parent_path(), failure);
    if (::mkdir(folder.c_str(), private_mode) != 0 && errno != EEXIST) {
      return fail(errc::permission_denied,
                  fmt::format("cannot make the folder {} as uid {}: {}; choose another --data-dir", folder.string(),
                              ::geteuid(), std::strerror(errno)));
    }
    if (::stat(folder.c_str(), &info) != 0) {
      return fail(errc::permission_denied,
                  fmt::format("cannot look at the folder {}: {}", folder.string(), std::strerror(errno)));
    }
  }
  const auto mode = static_cast<unsigned>(info.st_mode & 07777U);
  const auto describe = [&](const char* what, const std::string& next) {
    return fail(errc::permission_denied, fmt::format("{} {} (owner uid {}, mode {:04o}; this is uid {}); {}",
                                                     folder.string(), what, info.st_uid, mode, ::geteuid(), next));
  };
  if (!S_ISDIR(info.st_mode)) return describe("is no folder", "choose another --data-dir");
  if (info.st_uid != ::geteuid()) return describe("belongs to another user", "choose another --data-dir");
  if ((mode & (S_IRWXG | S_IRWXO)) != 0) {
    return describe("is open to others", fmt::format("run: chmod 0700 {}", folder.string()));
  }
  if (::access(folder.c_str(), W_OK | X_OK) != 0) {
    return describe("cannot be written", "is the file system read-only? choose another --data-dir");
  }
  return {};
}

result<instance_lock> instance_lock::take(const fs::path& file) {
  instance_lock lock(::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (lock.descriptor_ < 0) {
    return fail(errc::permission_denied,
                fmt::format("cannot open the lock {} as uid {}: {}", file.string(), ::geteuid(), std::strerror(errno)));
  }
  const auto give_up = steady_clock::now() + ending_process_max;
  while (::flock(lock.descriptor_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) {
      return fail(errc::internal, fmt::format("cannot lock {}: {}", file.string(), std::strerror(errno)));
    }
    const auto holder = holder_of(lock.descriptor_);
    if (!is_ending(holder) || steady_clock::now() >= give_up) {
      return fail(errc::conflict,
                  fmt::format("already running, pid {} (it holds {}); stop it first", holder, file.string()));
    }
    std::this_thread::sleep_for(look_interval);
  }
  const auto pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(lock.descriptor_, 0) != 0 ||
      ::pwrite(lock.descriptor_, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return fail(errc::no_space, fmt::format("cannot write the lock {}: {}", file.string(), std::strerror(errno)));
  }
  return lock;
}

instance_lock::instance_lock(instance_lock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

instance_lock::~instance_lock() {
  // The file stays: removing it would let a third process lock a new one beside a waiting second.
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace troupe::daemon
