// The folder that a cluster lives in on this machine, and the lock that keeps a second process out of it.
#pragma once

#include <filesystem>
#include <string>

#include "common/error.hpp"

namespace troupe::daemon {

// TROUPE_DATA_DIR, else $XDG_STATE_HOME/troupe/default, else ~/.local/state/troupe/default.
[[nodiscard]] std::filesystem::path default_data_folder();

// Makes the folder (0700) when it is missing; else checks that it is a folder, ours, closed to others, and can be
// written. permission_denied with path, owner and mode (faults.md D6).
[[nodiscard]] result<void> prepare_private_folder(const std::filesystem::path& folder);

// Held until destroyed, or until the process ends in whatever way (faults.md D8).
class instance_lock {
 public:
  // conflict: "... already running, pid N". Waits, for seconds at most, for a process that is ending.
  [[nodiscard]] static result<instance_lock> take(const std::filesystem::path& file);
  instance_lock(instance_lock&& other) noexcept;
  instance_lock& operator=(instance_lock&&) = delete;
  ~instance_lock();

 private:
  explicit instance_lock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_{-1};
};

}  // namespace troupe::daemon
