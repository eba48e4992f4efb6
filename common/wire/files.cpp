#include "common/wire/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/wire/descriptor.hpp"

namespace troupe::wire {
namespace {

tl::unexpected<error> system_failure(std::string_view what, const std::filesystem::path& file) {
  const int code = errno;
  const auto kind = code == ENOENT   ? errc::not_found
                    : code == EACCES ? errc::permission_denied
                    : code == EEXIST ? errc::conflict
                    : code == ENOSPC ? errc::no_space
                                     : errc::internal;
  return fail(kind, fmt::format("cannot {} {}: {}", what, file.string(), std::strerror(code)));
}

bool write_all(int number, std::string_view text) {
  while (!text.empty()) {
    const auto written = ::write(number, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return ::fsync(number) == 0;
}

}  // namespace

result<std::string> read_guarded_file(const std::filesystem::path& file, mode_t forbidden, std::size_t bytes_max) {
  const descriptor opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (opened.number() < 0 || ::fstat(opened.number(), &info) != 0) return system_failure("read", file);
  const auto mode = static_cast<mode_t>(info.st_mode & 0777U);
  if ((mode & forbidden) != 0) {
    return fail(errc::permission_denied,
                fmt::format("{} has mode {:04o}, which is open to others; run: chmod {:04o} {}", file.string(), mode,
                            mode & ~forbidden, file.string()));
  }
  if (static_cast<std::uint64_t>(info.st_size) > bytes_max) {
    return fail(errc::too_large,
                fmt::format("{} has {} bytes, above the limit of {}", file.string(), info.st_size, bytes_max));
  }
  std::string text(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const auto got = ::read(opened.number(), text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_failure("read", file);
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  text.resize(filled);
  return text;
}

result<void> replace_file(const std::filesystem::path& file, std::string_view text, mode_t mode) {
  const std::filesystem::path temporary = fmt::format("{}.{}.tmp", file.string(), ::getpid());
  ::unlink(temporary.c_str());
  {
    const descriptor opened(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (opened.number() < 0) return system_failure("write", temporary);
    // The umask may have taken bits away, never added any.
    if (::fchmod(opened.number(), mode) != 0 || !write_all(opened.number(), text)) {
      auto failure = system_failure("write", temporary);
      ::unlink(temporary.c_str());
      return failure;
    }
  }
  if (::rename(temporary.c_str(), file.c_str()) != 0) {
    auto failure = system_failure("write", file);
    ::unlink(temporary.c_str());
    return failure;
  }
  return {};
}

}  // namespace troupe::wire
