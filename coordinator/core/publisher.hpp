// From what the coordinator believes to what everybody works by: builds the map, numbers it, has it written to disk
// together with what else must survive a restart, and repeats it to nodes that do not acknowledge it.
#pragma once

#include "coordinator/core/cluster_state.hpp"

namespace troupe::coordinator::publisher {

void pass(cluster_state& state);
// A map is on its way to the disk: the published one is about to be replaced.
[[nodiscard]] bool is_writing_map(const cluster_state& state);
void acknowledged(cluster_state& state, const map_acknowledged& ack);
// The write that carried `map` is on disk.
void committed(cluster_state& state, const persist_in_flight& done);

// The map of the records, as it was before the restart. Names of nodes that no record knows are skipped.
// The epochs that the disk remembers, as far as they lead back from the published map with their maps.
void restore_history(cluster_state& state, const std::vector<epoch_record>& epochs);
[[nodiscard]] cluster_map map_of(const durable_state& durable, const cluster_settings& settings, term_number term);

}  // namespace troupe::coordinator::publisher
