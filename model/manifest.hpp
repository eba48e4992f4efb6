// `expert-digests.json`, an optional file beside the weights: the SHA-256 of every expert bundle. Written by
// `troupe model verify --write`; a loader that finds it compares, so that rotten bytes are never served (faults.md C4).
//
//   {"format": 1, "fingerprint": "<description::fingerprint>", "digests": {"3/17": "<64 hex digits>", ...}}
//
// Free functions; any thread.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/description.hpp"

namespace troupe::model {

struct digest_manifest {
  std::string fingerprint;
  std::map<expert_id, sha256_digest> digests;
};

// nullopt: the folder has none. invalid_request when it is malformed, lacks experts or names unknown ones; conflict
// when it was written for other files (the fingerprint differs).
[[nodiscard]] result<std::optional<digest_manifest>> read_manifest(const std::filesystem::path& folder,
                                                                   const description& model);

// Replaces the file atomically.
[[nodiscard]] result<void> write_manifest(const std::filesystem::path& folder, const digest_manifest& manifest);

// corrupt, with both digests, when a bundle's bytes are not those that the manifest was written for.
[[nodiscard]] result<void> check_digest(const digest_manifest& manifest, const expert_id& expert,
                                        const sha256_digest& digest);

}  // namespace troupe::model
