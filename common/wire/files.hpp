// Small files that hold secrets or decide about them: read with their permissions checked, written whole or not at all.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>

#include "common/error.hpp"

namespace troupe::wire {

// The file's text, at most `bytes_max`. permission_denied when `forbidden` mode bits are set (both modes in the
// message); not_found; too_large.
[[nodiscard]] result<std::string> read_guarded_file(const std::filesystem::path& file, mode_t forbidden,
                                                    std::size_t bytes_max);

// A new file beside it, synced, then renamed over it: readers see the old or the new text.
[[nodiscard]] result<void> replace_file(const std::filesystem::path& file, std::string_view text, mode_t mode);

}  // namespace troupe::wire
