// What a second checkpoint folder offers for a refresh: other weights for the experts of the model that is served.
#pragma once

#include <map>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "model/checkpoint.hpp"

namespace troupe::model {

using expert_digests = std::map<expert_id, sha256_digest>;

// The digest of every expert in `next`. Reads `next` whole and what is outside the experts of `served`, one bundle at a
// time; from any thread. Only experts may differ: invalid_request with all that is wrong when config.json (but for
// names and tool versions), the set of tensors, a shape or a dtype does, and naming the tensor when a weight outside
// the experts differs or one of the experts' is not finite. conflict or corrupt when the new folder's
// expert-digests.json does not fit its files.
[[nodiscard]] result<expert_digests> digests_for_refresh(const checkpoint& served, const checkpoint& next);

}  // namespace troupe::model
