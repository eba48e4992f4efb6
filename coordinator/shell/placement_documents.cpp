#include "coordinator/shell/placement_documents.hpp"

#include <nlohmann/json.hpp>

#include "common/layer_json.hpp"
#include "coordinator/core/expert_commands.hpp"
#include "coordinator/core/explanation.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/shell/json_values.hpp"

namespace troupe::coordinator {
namespace {

using json = nlohmann::ordered_json;

json epoch_item(const placement_epoch& epoch) {
  auto when = std::chrono::system_clock::time_point(std::chrono::milliseconds(epoch.at_unix_ms));
  auto nodes = json::array();
  for (const auto& change : epoch.nodes) {
    nodes.push_back({{"node", change.node.value}, {"change", to_string(change.what)}, {"why", change.why}});
  }
  auto experts = json::array();
  for (const auto& change : epoch.experts) {
    auto names = json::array();
    for (const auto& expert : change.experts) names.push_back(to_string(expert));
    experts.push_back({{"change", to_string(change.what)},
                       {"node", change.node.value.empty() ? json(nullptr) : json(change.node.value)},
                       {"count", change.count},
                       {"experts", std::move(names)},
                       {"why", change.why}});
  }
  return {{"epoch", epoch.epoch.value}, {"term", epoch.term.value},  {"time", iso_time(when)},
          {"replicas", epoch.replicas}, {"nodes", std::move(nodes)}, {"experts", std::move(experts)}};
}

}  // namespace

std::string history_document(const cluster_state& state) {
  auto items = json::array();
  for (const auto& epoch : state.history.epochs()) {
    items.push_back(epoch_item(epoch));
  }
  return json{{"items", std::move(items)}}.dump();
}

result<std::string> explanation_document(const cluster_state& state, std::string_view expert) {
  auto id = parse_expert(expert);
  if (!id) return fail(errc::invalid_request, "query.expert is not LAYER/EXPERT; write e.g. 3/17 or encoder.1/4");
  auto found = expert_commands::known_expert(state, *id);
  if (!found) return fail(found.error());
  const auto& entry = **found;
  auto seen = explain(state, entry);
  auto wanted = json::array();
  for (const auto& name : entry.wanted) wanted.push_back(name.value);
  auto replicas = json::array();
  for (const auto& replica : seen.replicas) {
    replicas.push_back({{"node", replica.node.value},
                        {"slot", replica.slot ? json(replica.slot->value) : json(nullptr)},
                        {"state", to_string(replica.state)},
                        {"why", replica.why}});
  }
  auto together = json::array();
  for (const auto& other : seen.together.most) together.push_back({{"expert", other.expert}, {"share", other.share}});
  const auto* operation = operations::running_on(state, *id);
  return json{{"name", to_string(*id)},
              {"layer", layer_json<json>(id->layer)},
              {"expert", id->index},
              {"state", shown_state(entry)},
              {"epoch", state.published->epoch.value},
              {"share", seen.share},
              {"fair_share", seen.fair_share},
              {"rows_in_window", seen.rows_in_window},
              {"together", std::move(together)},
              {"together_missed", seen.together.missed_share},
              {"pinned", entry.wish.pinned},
              {"replicas_wanted", wanted_replicas(state, entry)},
              {"wanted", state.planned ? std::move(wanted) : json(nullptr)},
              {"replicas", std::move(replicas)},
              {"operation", operation != nullptr ? json(operation_name(operation->number)) : json(nullptr)},
              {"reasons", seen.reasons},
              {"under_way", seen.under_way},
              {"would_change", seen.would_change}}
      .dump();
}

}  // namespace troupe::coordinator
