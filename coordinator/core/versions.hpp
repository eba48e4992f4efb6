// Versions of weights. An expert is served in one version, the map's; while a refresh is under way it is wanted in
// another one, which is loaded beside it. A layer goes over as a whole, in one epoch, once every expert of it that is
// wished in another version has all its replicas: no row ever meets two versions of a layer, unless slots are so short
// that the wishes of a layer change in batches (operations::next_batch).
#pragma once

#include <optional>
#include <set>
#include <string>

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::versions {

// What a replica of that version must have; none: not known yet.
[[nodiscard]] std::optional<sha256_digest> digest_of(const expert_entry& expert, weights_version version);
// Served, or wanted.
[[nodiscard]] bool is_current(const expert_entry& expert, weights_version version);
// Where it is read from; empty: the model's own folder.
[[nodiscard]] std::string folder_of(const cluster_state& state, weights_version version);
// The number of the next one.
[[nodiscard]] weights_version next(const cluster_state& state);

// The routers with texts that go on with what is in this slot though another version is served: pinned texts
// (troupe-router --pin-streams). Empty: none, or the slot is not on its way out.
[[nodiscard]] std::vector<node_id> pinned_by(const cluster_state& state, const slot_entry& entry);

// With how many replicas it may go over: those that serve now, as far as they are still wanted. 0: of an expert that
// does not take part.
[[nodiscard]] std::size_t replicas_to_flip(const cluster_state& state, const expert_entry& expert);
// The layers that the next map serves in the wanted versions.
[[nodiscard]] std::set<layer_id> layers_to_flip(const cluster_state& state);

// Of each layer that goes over by this map: how much its experts' outputs change, on the rows that nodes compared.
void tell_differences(cluster_state& state, const cluster_map& map);

}  // namespace troupe::coordinator::versions
