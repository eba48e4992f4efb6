#include "common/wire/shared_memory.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/descriptor.hpp"

namespace troupe::wire {
namespace {

constexpr std::string_view name_prefix = "troupe-";
constexpr const char* shm_folder = "/dev/shm";
constexpr std::size_t cluster_text_max = 40;

// Cluster ids come from a context file or a peer: only harmless characters get into a name.
std::string cluster_text(std::string_view cluster_id) {
  std::string text;
  for (const char c : cluster_id.substr(0, cluster_text_max)) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) text.push_back(c);
  }
  return text.empty() ? "x" : text;
}

// The creator's pid, when the file name (without '/') is "troupe-CLUSTER-PID-NUMBER".
std::optional<pid_t> pid_of(std::string_view file) {
  if (!file.starts_with(name_prefix)) return std::nullopt;
  const auto last = file.rfind('-');
  const auto before = file.rfind('-', last - 1);
  if (before == std::string_view::npos || before < name_prefix.size()) return std::nullopt;
  const auto text = file.substr(before + 1, last - before - 1);
  pid_t pid = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), pid);
  if (code != std::errc{} || end != text.data() + text.size() || pid <= 0) return std::nullopt;
  return pid;
}

bool is_our_name(std::string_view name) {
  return name.starts_with('/') && name.find('/', 1) == std::string_view::npos && pid_of(name.substr(1)).has_value();
}

result<std::byte*> map(int descriptor_number, std::uint64_t bytes, const std::string& name) {
  // Populated: the memory is reserved anyway, and one fault per page would cost more than a bundle is worth.
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor_number, 0);
  if (data == MAP_FAILED) {
    return fail(errc::out_of_memory,
                fmt::format("cannot map {} bytes of shared memory {}: {}", bytes, name, std::strerror(errno)));
  }
  return static_cast<std::byte*>(data);
}

result<void> check_size(std::uint64_t bytes) {
  if (bytes == 0) return fail(errc::invalid_request, "a shared segment of 0 bytes");
  if (bytes <= limits::segment_bytes_max) return {};
  return fail(errc::too_large,
              fmt::format("a shared segment of {} bytes is above the limit of {}", bytes, limits::segment_bytes_max));
}

}  // namespace

const std::string& machine_id() {
  static const std::string id = [] {
    std::ifstream file("/proc/sys/kernel/random/boot_id");
    std::string text;
    std::getline(file, text);
    return text.empty() ? std::string("unknown") : text;
  }();
  return id;
}

shared_segment::shared_segment(std::string name, std::byte* data, std::size_t size, bool owns_name)
    : name_(std::move(name)), data_(data), size_(size), owns_name_(owns_name) {}

shared_segment::shared_segment(shared_segment&& other) noexcept
    : name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      owns_name_(std::exchange(other.owns_name_, false)) {}

shared_segment& shared_segment::operator=(shared_segment&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(owns_name_, other.owns_name_);
  return *this;
}

shared_segment::~shared_segment() {
  unlink();
  if (data_ != nullptr) ::munmap(data_, size_);
}

void shared_segment::unlink() {
  if (std::exchange(owns_name_, false)) ::shm_unlink(name_.c_str());
}

result<shared_segment> shared_segment::create(std::string_view cluster_id, std::uint64_t bytes) {
  static std::atomic<std::uint64_t> next_number{0};
  if (auto checked = check_size(bytes); !checked) return fail(std::move(checked.error()));
  auto name = fmt::format("/{}{}-{}-{}", name_prefix, cluster_text(cluster_id), ::getpid(), next_number.fetch_add(1));
  const descriptor file(::shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (file.number() < 0) {
    return fail(errc::internal, fmt::format("cannot create shared memory {}: {}", name, std::strerror(errno)));
  }
  shared_segment made(name, nullptr, 0, true);
  int failure = EINTR;
  while (failure == EINTR) failure = ::posix_fallocate(file.number(), 0, static_cast<off_t>(bytes));
  if (failure != 0) {
    return fail(errc::no_space, fmt::format("no room for {} bytes of shared memory in {}: {}; make it larger, or go on "
                                            "without",
                                            bytes, shm_folder, std::strerror(failure)));
  }
  auto data = map(file.number(), bytes, name);
  if (!data) return fail(std::move(data.error()));
  made.data_ = *data;
  made.size_ = bytes;
  return made;
}

result<shared_segment> shared_segment::open(std::string_view name, std::uint64_t bytes) {
  if (auto checked = check_size(bytes); !checked) return fail(std::move(checked.error()));
  const std::string text(name);
  if (!is_our_name(name)) return fail(errc::invalid_request, fmt::format("'{}' is no segment of ours", name));
  const descriptor file(::shm_open(text.c_str(), O_RDWR | O_CLOEXEC, 0));
  if (file.number() < 0) {
    return fail(errno == EACCES ? errc::permission_denied : errc::not_found,
                fmt::format("cannot open shared memory {}: {}", name, std::strerror(errno)));
  }
  struct stat info {};
  if (::fstat(file.number(), &info) != 0 || info.st_uid != ::geteuid()) {
    return fail(errc::permission_denied, fmt::format("shared memory {} belongs to another user", name));
  }
  if (static_cast<std::uint64_t>(info.st_size) < bytes) {
    return fail(errc::invalid_request,
                fmt::format("shared memory {} has {} bytes, not the {} that were offered", name, info.st_size, bytes));
  }
  auto data = map(file.number(), bytes, text);
  if (!data) return fail(std::move(data.error()));
  return shared_segment(text, *data, bytes, false);
}

std::size_t remove_stale_segments() {
  std::size_t removed = 0;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(shm_folder, failure)) {
    const auto file = entry.path().filename().string();
    const auto pid = pid_of(file);
    if (!pid || ::kill(*pid, 0) == 0 || errno != ESRCH) continue;
    // Another user's leftovers cannot be removed, and need not be.
    if (::shm_unlink(("/" + file).c_str()) == 0) ++removed;
  }
  return removed;
}

}  // namespace troupe::wire
