// The files of a checkpoint folder: which ones there are, that none lies outside the folder, and which tensors they
// hold.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "model/file.hpp"
#include "model/safetensors.hpp"

namespace troupe::model {

struct checkpoint_files {
  std::filesystem::path folder;    // canonical
  std::string config;              // text of config.json
  std::vector<std::string> names;  // of the shards, relative to the folder, sorted
  std::vector<file> shards;        // in the same order
  tensor_index tensors;
};

// invalid_request for everything of faults.md C1-C3, C14 and C15, as a table where several things can be wrong at once.
[[nodiscard]] result<checkpoint_files> open_checkpoint_files(const std::filesystem::path& folder);

// The real path of `name` inside the canonical folder. invalid_request when it is absolute, climbs out, or is a
// symbolic link that leaves the folder; not_found when there is no such file.
[[nodiscard]] result<std::filesystem::path> resolve_inside(const std::filesystem::path& folder,
                                                           const std::string& name);

}  // namespace troupe::model
