#include "model/file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::model {
namespace {

constexpr std::size_t bytes_per_read_max = limits::gib;  // Linux transfers at most 2 GiB in one call

error system_error(std::string_view what, const std::filesystem::path& path, int number) {
  auto code = number == ENOENT || number == ENOTDIR ? errc::not_found
              : number == ENOSPC                    ? errc::no_space
                                                    : errc::invalid_request;
  return {code, fmt::format("cannot {} {}: {}", what, path.string(), std::strerror(number))};
}

result<void> write_all(int descriptor, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    auto written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return fail(system_error("write", path, errno));
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fsync(descriptor) != 0) return fail(system_error("sync", path, errno));
  return {};
}

}  // namespace

result<file> file::open(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer.
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return fail(system_error("open", path, errno));
  file opened{descriptor, 0, path};
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return fail(system_error("stat", path, errno));
  if (!S_ISREG(status.st_mode)) {
    return fail(errc::invalid_request,
                fmt::format("{} is not a regular file; a checkpoint consists of plain files", path.string()));
  }
  opened.bytes_ = static_cast<std::uint64_t>(status.st_size);
  return opened;
}

file::file(int descriptor, std::uint64_t bytes, std::filesystem::path path)
    : descriptor_(descriptor), bytes_(bytes), path_(std::move(path)) {}

file::file(file&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), bytes_(other.bytes_), path_(std::move(other.path_)) {}

file& file::operator=(file&& other) noexcept {
  if (this != &other) {
    close();
    descriptor_ = std::exchange(other.descriptor_, -1);
    bytes_ = other.bytes_;
    path_ = std::move(other.path_);
  }
  return *this;
}

file::~file() { close(); }

void file::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

result<void> file::read(std::uint64_t offset, std::span<std::byte> target) const {
  while (!target.empty()) {
    auto wanted = std::min(target.size(), bytes_per_read_max);
    auto got = ::pread(descriptor_, target.data(), wanted, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(system_error("read", path_, errno));
    if (got == 0) {
      return fail(errc::corrupt, fmt::format("{} ends {} bytes before the end of a read at offset {}; it was truncated "
                                             "after it was opened, restore it",
                                             path_.string(), target.size(), offset));
    }
    offset += static_cast<std::uint64_t>(got);
    target = target.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

void file::drop_cache(std::uint64_t offset, std::uint64_t bytes) const {
  // Advice: whether the system follows it changes nothing but memory use.
  static_cast<void>(
      ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED));
}

result<std::string> read_text(const std::filesystem::path& path, std::size_t bytes_max) {
  auto opened = file::open(path);
  if (!opened) return fail(opened.error());
  if (opened->bytes() > bytes_max) {
    return fail(errc::too_large,
                fmt::format("{} has {} bytes; at most {} are read", path.string(), opened->bytes(), bytes_max));
  }
  std::string text(opened->bytes(), '\0');
  if (auto read = opened->read(0, std::as_writable_bytes(std::span{text})); !read) return fail(read.error());
  return text;
}

result<void> replace_file(const std::filesystem::path& path, std::string_view text) {
  auto temporary = path;
  temporary += ".tmp";
  int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (descriptor < 0) return fail(system_error("create", temporary, errno));
  auto written = write_all(descriptor, text, temporary);
  if (::close(descriptor) != 0 && written) written = fail(system_error("close", temporary, errno));
  if (written && ::rename(temporary.c_str(), path.c_str()) != 0)
    written = fail(system_error("rename", temporary, errno));
  if (!written) {
    ::unlink(temporary.c_str());
    return written;
  }
  int folder =
      ::open(path.parent_path().empty() ? "." : path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    ::fsync(folder);  // makes the rename durable where the file system can
    ::close(folder);
  }
  return {};
}

}  // namespace troupe::model
