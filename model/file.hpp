// A file read by position: no shared cursor, so const methods may be called from any thread. Reading a mapped file that
// somebody truncates kills the process; a read returns an error instead, which is why nothing here is mapped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::model {

class file {
 public:
  // Regular files only. not_found, or invalid_request with the system's reason.
  [[nodiscard]] static result<file> open(const std::filesystem::path& path);

  file(file&& other) noexcept;
  file& operator=(file&& other) noexcept;
  ~file();

  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  // Fills the target. corrupt when the file ends before that.
  [[nodiscard]] result<void> read(std::uint64_t offset, std::span<std::byte> target) const;
  // Tells the system that this range will not be read again soon, so that its page cache goes to who needs it.
  void drop_cache(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  file(int descriptor, std::uint64_t bytes, std::filesystem::path path);
  void close();

  int descriptor_{-1};
  std::uint64_t bytes_{};
  std::filesystem::path path_;
};

// The whole file as text; too_large above `bytes_max`.
[[nodiscard]] result<std::string> read_text(const std::filesystem::path& path, std::size_t bytes_max);

// Writes beside the target, syncs, and renames over it: a reader sees the old file or the new one (faults.md C8).
[[nodiscard]] result<void> replace_file(const std::filesystem::path& path, std::string_view text);

}  // namespace troupe::model
