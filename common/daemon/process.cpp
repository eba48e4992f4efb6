#include "common/daemon/process.hpp"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

namespace troupe::daemon {

void set_process_name(std::string_view name) {
  constexpr std::size_t shown_bytes = 15;
  ::prctl(PR_SET_NAME, std::string(name.substr(0, shown_bytes)).c_str());
}

namespace {

// sched_setattr(2), as the kernel's first version of it has it: neither it nor its type is in the C library of
// Debian 12.
struct scheduling {
  std::uint32_t size;
  std::uint32_t policy;
  std::uint64_t flags;
  std::int32_t niceness;
  std::uint32_t priority;
  std::uint64_t slice_ns;  // "runtime": of a normal thread a suggestion
  std::uint64_t deadline_ns;
  std::uint64_t period_ns;
};
static_assert(sizeof(scheduling) == 48);

constexpr std::uint64_t keep_policy = 0x08;

}  // namespace

void take_duty(thread_duty duty) {
  constexpr std::uint64_t short_slice_ns = 100'000;
  constexpr std::uint64_t long_slice_ns = 4'000'000;
  constexpr int nicer_by = 5;
  scheduling wanted{};
  wanted.size = sizeof wanted;
  wanted.flags = keep_policy;
  // "Process 0" is the calling thread.
  wanted.niceness = ::getpriority(PRIO_PROCESS, 0) + (duty == thread_duty::background ? nicer_by : 0);
  wanted.slice_ns = duty == thread_duty::messages ? short_slice_ns : long_slice_ns;
  ::syscall(SYS_sched_setattr, 0, &wanted, 0);
}

bool notify_service(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr || *path == '\0') return true;
  sockaddr_un address{};
  const std::size_t length = std::strlen(path);
  if (length >= sizeof address.sun_path) return false;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, length);
  // '@' stands for the null byte that begins an abstract address.
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const int descriptor = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return false;
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  const auto sent = ::sendto(descriptor, state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
                             reinterpret_cast<const sockaddr*>(&address), size);
  ::close(descriptor);
  return sent == static_cast<ssize_t>(state.size());
}

std::uint64_t resident_set_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t total_pages = 0;
  std::uint64_t resident_pages = 0;
  if (!(file >> total_pages >> resident_pages)) return 0;
  return resident_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace troupe::daemon
