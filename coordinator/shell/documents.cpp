#include "coordinator/shell/documents.hpp"

#include <algorithm>
#include <ctime>
#include <set>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "common/layer_json.hpp"
#include "coordinator/core/operations.hpp"
#include "coordinator/shell/json_values.hpp"

namespace troupe::coordinator {
namespace {

using json = nlohmann::ordered_json;

std::string hex(const sha256_digest& digest) {
  std::string text;
  for (auto byte : digest) text += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return text;
}

std::uint64_t bytes_resident(const node_entry& node) {
  std::uint64_t bytes = 0;
  for (const auto& [slot, entry] : node.slots) bytes += entry.resident_bytes;
  return bytes;
}

std::string life_name(const node_entry& node) {
  return std::visit(overloaded{
                        [](const node_expected&) { return "expected back after the coordinator's restart"; },
                        [](const node_joining& j) { return j.probation ? "watched after a loss" : "joining"; },
                        [](const node_serving&) { return "serving"; },
                        [](const node_suspect&) { return "silent"; },
                        [](const node_quarantined& quarantined) { return quarantined.reason.c_str(); },
                        [](const node_lost& lost) { return lost.reason.c_str(); },
                    },
                    node.life);
}

json coordinator_item(const document_context& context) {
  return {{"name", context.name},
          {"role", "coordinator"},
          {"state", "serving"},
          {"pid", context.pid},
          {"address", context.address},
          {"device", ""},
          {"slots_total", 0},
          {"slots_used", 0},
          {"bytes_resident", 0},
          {"bytes_capacity", 0},
          {"incarnation", context.incarnation}};
}

json node_item(const cluster_state& state, const node_id& name, const node_entry& node) {
  const auto& facts = node.facts;
  json item{{"name", name.value},
            {"role", to_string(facts.role)},
            {"state", to_string(shown_state(node))},
            {"pid", facts.pid},
            {"address", facts.data_address},
            {"device", facts.device},
            {"slots_total", facts.slots_total},
            {"slots_used", node.slots.size()},
            {"bytes_resident", bytes_resident(node)},
            {"bytes_capacity", facts.slots_total * facts.slot_bytes},
            {"incarnation", node.incarnation.value},
            {"detail", life_name(node)},
            {"dtype", facts.dtype},
            {"zone", facts.zone},
            {"machine", facts.machine_id},
            {"http", facts.http_address},
            {"resident_set_bytes", node.resident_set_bytes},
            {"queue_rows", node.queue_rows},
            {"rows_per_second", node.rows_per_second}};
  auto silence = std::chrono::duration_cast<std::chrono::milliseconds>(state.now - node.last_heard).count();
  item["silent_ms"] = silence;
  item["epoch"] = std::max(node.heard_epoch, node.acked_epoch).value;
  if (node.drain) {
    auto left = node.slots.size();
    item["drain"] = {{"operation", node.drain->id},
                     {"state", node.drain->done ? "done" : "running"},
                     {"replicas_total", std::max<std::size_t>(node.drain->replicas_at_start, left)},
                     {"replicas_left", left}};
  }
  auto paces = json::array();
  for (const auto& [router, entry] : state.nodes) {
    if (const auto seen = entry.paces.find(name); seen != entry.paces.end()) {
      paces.push_back(
          {{"router", router.value}, {"pace", to_string(seen->second.pace)}, {"reason", seen->second.reason}});
    }
  }
  if (!paces.empty()) item["paces"] = std::move(paces);
  auto failures = json::array();
  for (const auto& [expert, failure] : node.failures) {
    failures.push_back({{"expert", to_string(expert)}, {"times", failure.count}, {"reason", failure.reason}});
  }
  if (!failures.empty()) item["load_failures"] = std::move(failures);
  return item;
}

std::uint64_t layers_of(const cluster_state& state, std::size_t& experts_per_layer) {
  std::map<layer_id, std::size_t> counts;
  for (const auto& expert : state.experts) ++counts[expert.id.layer];
  for (const auto& [layer, count] : counts) experts_per_layer = std::max(experts_per_layer, count);
  return counts.size();
}

std::uint64_t replicas_wanted(const cluster_state& state) {
  std::uint64_t sum = 0;
  for (const auto& expert : state.experts) sum += wanted_replicas(state, expert);
  return sum;
}

std::uint64_t absent_experts(const cluster_state& state, expert_presence why) {
  return static_cast<std::uint64_t>(
      std::ranges::count_if(state.experts, [&](const auto& e) { return e.wish.presence == why; }));
}

std::uint32_t below_replication(const cluster_state& state) {
  std::uint32_t low = 0;
  for (const auto& expert : state.experts) {
    const auto* published = state.published->find(expert.id);
    low += published != nullptr && published->replicas.size() < wanted_replicas(state, expert) ? 1 : 0;
  }
  return low;
}

// Why the cluster is not simply "serving": each line says what, and what to do.
std::vector<std::string> reasons(const cluster_state& state) {
  std::vector<std::string> list;
  if (state.alarm) list.push_back(fmt::format("the coordinator's state cannot be written: {}", state.alarm->message));
  std::uint64_t slots = 0;
  std::uint32_t nodes = 0;
  for (const auto& [name, node] : state.nodes) {
    if (node.is_expert() && is_serving(node)) {
      ++nodes;
      slots += node.facts.slots_total;
    }
    bool lost = std::holds_alternative<node_lost>(node.life) && !node.removed && node.is_expert();
    if (const auto* quarantined = std::get_if<node_quarantined>(&node.life); quarantined != nullptr && !node.removed) {
      list.push_back(fmt::format("{} gets no work: {}", name.value, quarantined->reason));
    }
    for (const auto& [slow, report] : node.paces) {
      list.push_back(fmt::format("{} gets {} from {}: {}", slow.value,
                                 report.pace == node_pace::slow ? "less work" : "only work that no other node can do",
                                 name.value, report.reason));
    }
    if (lost) list.push_back(fmt::format("{} is lost: {}", name.value, std::get<node_lost>(node.life).reason));
  }
  if (!state.placed) {
    list.push_back(fmt::format("{} of {} expert nodes have joined; the placement waits for the others", nodes,
                               state.settings.expert_nodes));
    return list;
  }
  if (nodes < state.settings.replication) {
    list.push_back(fmt::format("replication {} needs as many expert nodes, there are {}; add nodes",
                               state.settings.replication, nodes));
  }
  auto needed = replicas_wanted(state);
  if (slots < needed) list.push_back(fmt::format("{} slots for {} replicas; add nodes or slots", slots, needed));
  if (auto low = below_replication(state); low > 0) {
    list.push_back(fmt::format("{} of {} experts have fewer replicas than they should", low, state.experts.size()));
  }
  for (const auto& expert : state.experts) {
    if (expert.last_failure.empty()) continue;
    list.push_back(fmt::format("expert {} could not be loaded on {}", to_string(expert.id), expert.last_failure));
    if (list.size() >= 20) break;
  }
  return list;
}

json expert_item(const cluster_state& state, const expert_entry& expert, const document_context& context,
                 const std::map<layer_id, std::uint64_t>& window) {
  const auto* published = state.published->find(expert.id);
  auto replicas = json::array();
  if (published != nullptr) {
    for (const auto& replica : published->replicas) {
      replicas.push_back({{"node", state.published->nodes[replica.node].name.value},
                          {"slot", replica.slot.value},
                          {"version", replica.version.value}});
    }
  }
  auto wanted = json::array();
  for (const auto& name : expert.wanted) wanted.push_back(name.value);
  auto usage = state.traffic.of(expert.id, state.now);
  auto layer_rows = window.at(expert.id.layer);
  double share = layer_rows == 0 ? 0.0 : static_cast<double>(usage.rows_in_window) / static_cast<double>(layer_rows);
  json item{{"layer", layer_json<json>(expert.id.layer)},
            {"expert", expert.id.index},
            {"state", shown_state(expert)},
            {"version", expert.version.value},
            {"digest", expert.digest ? json(hex(*expert.digest)) : json(nullptr)},
            {"bytes", expert.bundle_bytes},
            {"replicas", std::move(replicas)},
            {"tokens_total", usage.rows_total},
            {"share", share},
            {"last_used", nullptr},
            {"pinned", expert.wish.pinned},
            {"cold", state.cold.contains(expert.id)},
            {"replicas_wanted", wanted_replicas(state, expert)},
            {"wanted", state.planned ? std::move(wanted) : json(nullptr)}};
  if (const auto* operation = operations::running_on(state, expert.id)) {
    item["operation"] = operation_name(operation->number);
  }
  if (usage.last_used) {
    auto ago = std::chrono::duration_cast<std::chrono::system_clock::duration>(state.now - *usage.last_used);
    item["last_used"] = iso_time(context.wall_clock - ago);
  }
  if (const auto* dormant = std::get_if<expert_dormant>(&expert.life)) item["reason"] = dormant->reason;
  if (!expert.last_failure.empty()) item["last_failure"] = expert.last_failure;
  return item;
}

}  // namespace

std::string_view cluster_state_name(const cluster_state& state) {
  if (state.stopping) return "stopped";
  if (!state.settled)
    return state.placed && state.replicas_missing > 0 && unroutable_experts(state) == 0 ? "degraded" : "starting";
  bool whole = !state.alarm && unroutable_experts(state) == 0 && below_replication(state) == 0;
  return whole ? "serving" : "degraded";
}

std::uint32_t unroutable_experts(const cluster_state& state) {
  if (state.published->experts.empty()) return static_cast<std::uint32_t>(state.experts.size());
  return static_cast<std::uint32_t>(state.published->unroutable_experts());
}

std::uint32_t operations_running(const cluster_state& state) {
  return static_cast<std::uint32_t>(operations::running(state));
}

std::string status_document(const cluster_state& state, const document_context& context) {
  std::size_t experts_per_layer = 0;
  auto layers = layers_of(state, experts_per_layer);
  auto nodes = json::array();
  nodes.push_back({{"name", context.name}, {"role", "coordinator"}, {"state", "serving"}});
  std::uint64_t resident = 0;
  for (const auto& [name, node] : state.nodes) {
    if (node.removed) continue;
    resident += bytes_resident(node);
    nodes.push_back(
        {{"name", name.value}, {"role", to_string(node.facts.role)}, {"state", to_string(shown_state(node))}});
  }
  std::size_t replicas = 0;
  for (const auto& expert : state.published->experts) replicas += expert.replicas.size();
  json document{{"cluster_id", state.settings.cluster_id},
                {"state", cluster_state_name(state)},
                {"term", state.term.value},
                {"epoch", state.published->epoch.value},
                {"model",
                 {{"name", context.model_name},
                  {"family", context.model_family},
                  {"layers", layers},
                  {"experts_per_layer", experts_per_layer},
                  {"fingerprint", state.settings.model_fingerprint}}},
                {"nodes", std::move(nodes)},
                {"unroutable_experts", unroutable_experts(state)},
                {"operations_running", operations_running(state)},
                {"replication", state.settings.replication},
                {"pruned_experts", absent_experts(state, expert_presence::pruned)},
                {"dormant_experts", absent_experts(state, expert_presence::dormant)},
                {"cold_experts", state.cold.size()},
                {"experts", state.experts.size()},
                {"replicas", replicas},
                {"replicas_wanted", replicas_wanted(state)},
                {"bytes_resident", resident},
                {"uptime_seconds", std::chrono::duration_cast<std::chrono::seconds>(state.now - state.started).count()},
                {"reasons", reasons(state)}};
  if (const auto& limit = state.settings.route_groups; limit.groups != 0) {
    document["route_groups"] = {{"groups", limit.groups}, {"kept", limit.kept}};
  }
  return document.dump();
}

result<std::string> nodes_document(const cluster_state& state, const document_context& context, std::string_view only) {
  auto items = json::array();
  if (only.empty() || only == context.name) items.push_back(coordinator_item(context));
  for (const auto& [name, node] : state.nodes) {
    if (!node.removed && (only.empty() || only == name.value)) items.push_back(node_item(state, name, node));
  }
  if (items.empty()) return fail(errc::not_found, fmt::format("no node {}; troupe node list shows all", only));
  return json{{"items", std::move(items)}}.dump();
}

result<std::string> experts_document(const cluster_state& state, const document_context& context,
                                     std::string_view layer) {
  std::optional<layer_id> wanted;
  if (!layer.empty()) {
    wanted = parse_layer(layer);
    bool known = wanted && std::ranges::any_of(state.experts, [&](const auto& e) { return e.id.layer == *wanted; });
    if (!known) {
      std::set<layer_id> layers;
      for (const auto& expert : state.experts) layers.insert(expert.id.layer);
      std::vector<std::string> names;
      for (auto id : layers) names.push_back(to_string(id));
      return fail(errc::not_found, fmt::format("no MoE layer {}; there are {}", layer, fmt::join(names, ", ")));
    }
  }
  std::map<layer_id, std::uint64_t> window;
  for (const auto& expert : state.experts) {
    window[expert.id.layer] += state.traffic.of(expert.id, state.now).rows_in_window;
  }
  auto items = json::array();
  for (const auto& expert : state.experts) {
    if (!wanted || expert.id.layer == *wanted) items.push_back(expert_item(state, expert, context, window));
  }
  return json{{"term", state.term.value}, {"epoch", state.published->epoch.value}, {"items", std::move(items)}}.dump();
}

std::string operations_document(const cluster_state& state) {
  auto items = json::array();
  for (const auto& [number, operation] : state.operations) {
    bool is_running = operation.state == operation_state::running;
    bool is_drain = operation.kind == operation_kind::drain;
    bool is_many = !operation.changes.empty();
    json item{
        {"id", operation_name(number)},
        {"kind", to_string(operation.kind)},
        {"object", is_many    ? operation.subject
                   : is_drain ? operation.node.value
                              : to_string(operation.expert)},
        {"state", to_string(operation.state)},
        {"step", nullptr},
        {"progress", operation.state == operation_state::done ? 1.0 : 0.0},
        {"reason", operation.reason},
        {"who", operation.who},
        {"why", operation.why},
        {"since", iso_time(std::chrono::system_clock::time_point(std::chrono::milliseconds(operation.since_unix_ms)))}};
    if (is_running) {
      auto seen = operations::look(state, operation);
      item["step"] = operations::to_string(seen.at);
      item["progress"] = seen.fraction;
      item["waits_for"] = seen.detail;
      item["cancelling"] = operation.cancelling;
    }
    if (is_many) item["experts"] = operation.changes.size();
    if (!is_drain && !is_many) {
      auto from = json::array();
      for (const auto& node : operation.from) from.push_back(node.value);
      item["from"] = std::move(from);
      item["replicas_before"] = operation.replicas_before;
      item["replicas_after"] = operation.replicas_after;
    }
    if (operation.kind == operation_kind::migrate) item["to"] = operation.node.value;
    items.push_back(std::move(item));
  }
  return json{{"items", std::move(items)}}.dump();
}

namespace {

json run_item(const scheduled_run& run) {
  auto cold = json::array();
  for (const auto& expert : run.cold_named) cold.push_back(to_string(expert));
  return {{"time", iso_time(std::chrono::system_clock::time_point(std::chrono::milliseconds(run.at_unix_ms)))},
          {"because", run.because},
          {"refresh", run.refresh},
          {"moves", run.moves},
          {"operation", run.operation.empty() ? json(nullptr) : json(run.operation)},
          {"imbalance_before", run.operation.empty() ? json(nullptr) : json(run.imbalance_before + 1)},
          {"imbalance_after", run.operation.empty() ? json(nullptr) : json(run.imbalance_after + 1)},
          {"cold_experts", run.cold},
          {"stale_experts", run.stale},
          {"cold", std::move(cold)}};
}

}  // namespace

std::string refreshes_document(const cluster_state& state) {
  auto items = json::array();
  for (const auto& [version, source] : state.sources) {
    auto since = std::chrono::system_clock::time_point(std::chrono::milliseconds(source.since_unix_ms));
    auto serving = std::ranges::count(state.experts, version, &expert_entry::version);
    items.push_back({{"version", version.value},
                     {"from", source.folder},
                     {"state", to_string(source.state)},
                     {"experts", source.experts},
                     {"serving", serving},
                     {"operation", operation_name(source.operation)},
                     {"who", source.who},
                     {"since", iso_time(since)}});
  }
  const auto& s = state.schedule;
  json schedule = nullptr;
  if (s.every.count() > 0 || s.every_batches > 0) {
    auto last = std::chrono::system_clock::time_point(std::chrono::milliseconds(s.last_unix_ms));
    schedule = {{"every_seconds", std::chrono::duration<double>(s.every).count()},
                {"every_batches", s.every_batches},
                {"max_moves", s.moves_max},
                {"from", s.folder},
                {"state", s.is_paused ? "paused" : "active"},
                {"last", iso_time(last)}};
  }
  auto runs = json::array();
  for (const auto& run : state.scheduled_runs) runs.push_back(run_item(run));
  return json{{"items", std::move(items)}, {"schedule", std::move(schedule)}, {"runs", std::move(runs)}}.dump();
}

std::string events_document(const event_log& events, std::uint64_t after) {
  auto items = json::array();
  constexpr const char* levels[] = {"info", "warning", "error"};
  for (const auto& entry : events.entries()) {
    if (entry.id <= after) continue;
    items.push_back({{"id", entry.id},
                     {"time", iso_time(entry.when)},
                     {"severity", levels[static_cast<std::size_t>(entry.what.level)]},
                     {"kind", entry.what.kind},
                     {"object", entry.what.object},
                     {"text", entry.what.text}});
  }
  return json{{"items", std::move(items)}}.dump();
}

}  // namespace troupe::coordinator
