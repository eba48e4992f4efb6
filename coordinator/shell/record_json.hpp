// Records as JSON text, for the columns of the store that a person may want to read. Pure functions, any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

[[nodiscard]] std::string to_json(const node_record& node);
[[nodiscard]] std::string to_json(const std::vector<replica_record>& replicas);
[[nodiscard]] std::string to_json(const command_outcome& outcome);  // also what the command is answered with
// corrupt when the text is not what to_json writes.
[[nodiscard]] result<node_record> node_from_json(std::string_view text);
[[nodiscard]] result<std::vector<replica_record>> replicas_from_json(std::string_view text);
[[nodiscard]] result<command_outcome> outcome_from_json(std::string_view text);
[[nodiscard]] std::string to_json(const expert_wish& wish);
[[nodiscard]] result<expert_wish> wish_from_json(std::string_view text);
[[nodiscard]] std::string to_json(const operation_record& operation);
[[nodiscard]] result<operation_record> operation_from_json(std::uint64_t number, std::string_view text);
[[nodiscard]] std::string to_json(const schedule_record& schedule);
[[nodiscard]] result<schedule_record> schedule_from_json(std::string_view text);
[[nodiscard]] std::string to_json(const source_record& source);
[[nodiscard]] result<source_record> source_from_json(weights_version version, std::string_view text);
[[nodiscard]] std::string to_json(const scheduled_run& run);
[[nodiscard]] result<scheduled_run> run_from_json(std::uint64_t number, std::string_view text);
[[nodiscard]] std::string to_json(const watch_record& watch);
[[nodiscard]] result<watch_record> watch_from_json(layer_id layer, std::string_view text);
[[nodiscard]] std::string to_json(const placement_epoch& epoch);
[[nodiscard]] result<placement_epoch> epoch_from_json(std::string_view text);
[[nodiscard]] std::string to_json(const std::vector<expert_record>& experts);
[[nodiscard]] result<std::vector<expert_record>> experts_from_json(std::string_view text);

}  // namespace troupe::coordinator
