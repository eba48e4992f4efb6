#include "coordinator/shell/record_json.hpp"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "model/checkpoint.hpp"

namespace troupe::coordinator {
namespace {

using nlohmann::json;

template <class Value, class Read>
result<Value> parse(std::string_view text, const char* what, Read read) {
  try {
    return read(json::parse(text));
  } catch (const json::exception& e) {
    return fail(errc::corrupt,
                fmt::format("state.db holds a damaged {} ({}); restore it from a backup", what, e.what()));
  }
}

json to_document(const expert_wish& wish) {
  json d{{"nodes", json::array()}, {"pinned", wish.pinned}, {"presence", static_cast<int>(wish.presence)}};
  for (const auto& node : wish.nodes) d["nodes"].push_back(node.value);
  if (wish.replicas) d["replicas"] = *wish.replicas;
  if (wish.version.value != 1) d["version"] = wish.version.value;
  if (wish.digest) d["digest"] = model::to_hex(*wish.digest);
  if (wish.pruned_by_policy) d["pruned_by_policy"] = true;
  return d;
}

std::vector<node_id> nodes_from(const json& list) {
  std::vector<node_id> nodes;
  for (const auto& name : list) nodes.push_back({name.get<std::string>()});
  return nodes;
}

expert_wish wish_from(const json& d) {
  expert_wish wish{std::nullopt, nodes_from(d.at("nodes")), d.at("pinned")};
  wish.presence = static_cast<expert_presence>(d.value("presence", 0));
  if (d.contains("replicas")) wish.replicas = d.at("replicas").get<std::uint32_t>();
  wish.version.value = d.value("version", 1U);
  if (d.contains("digest")) wish.digest = model::parse_digest(d.at("digest").get<std::string>());
  wish.pruned_by_policy = d.value("pruned_by_policy", false);
  return wish;
}

json to_document(const std::vector<expert_id>& experts) {
  auto list = json::array();
  for (const auto& expert : experts) list.push_back({expert.layer.value, expert.index});
  return list;
}

std::vector<expert_id> ids_from(const json& list) {
  std::vector<expert_id> experts;
  for (const auto& id : list) experts.push_back({{id.at(0).get<std::uint32_t>()}, id.at(1).get<std::uint32_t>()});
  return experts;
}

json to_document(const std::vector<wish_change>& changes) {
  auto list = json::array();
  for (const auto& change : changes) {
    list.push_back({{"layer", change.expert.layer.value},
                    {"expert", change.expert.index},
                    {"before", to_document(change.before)},
                    {"after", to_document(change.after)}});
  }
  return list;
}

std::vector<wish_change> changes_from(const json& list) {
  std::vector<wish_change> changes;
  for (const auto& d : list) {
    changes.push_back({{{d.at("layer").get<std::uint32_t>()}, d.at("expert").get<std::uint32_t>()},
                       wish_from(d.at("before")),
                       wish_from(d.at("after"))});
  }
  return changes;
}

}  // namespace

std::string to_json(const node_record& node) {
  const auto& f = node.facts;
  json document{{"name", node.node.value},
                {"incarnation", node.incarnation.value},
                {"role", static_cast<int>(f.role)},
                {"pid", f.pid},
                {"data_address", f.data_address},
                {"http_address", f.http_address},
                {"peer_address", f.peer_address},
                {"public_key", f.public_key},
                {"machine_id", f.machine_id},
                {"zone", f.zone},
                {"device", f.device},
                {"dtype", f.dtype},
                {"slots_total", f.slots_total},
                {"slot_bytes", f.slot_bytes},
                {"model_fingerprint", f.model_fingerprint},
                {"draining", node.draining},
                {"operation", node.operation},
                {"removed", node.removed}};
  if (node.in_map) document["in_map"] = static_cast<int>(*node.in_map);
  return document.dump();
}

result<node_record> node_from_json(std::string_view text) {
  return parse<node_record>(text, "node", [](const json& d) {
    node_record node;
    node.node.value = d.at("name");
    node.incarnation.value = d.at("incarnation");
    auto& f = node.facts;
    f.role = static_cast<node_role>(d.at("role").get<int>());
    f.pid = d.at("pid");
    f.data_address = d.at("data_address");
    f.http_address = d.at("http_address");
    f.peer_address = d.at("peer_address");
    f.public_key = d.at("public_key");
    f.machine_id = d.at("machine_id");
    f.zone = d.at("zone");
    f.device = d.at("device");
    f.dtype = d.at("dtype");
    f.slots_total = d.at("slots_total");
    f.slot_bytes = d.at("slot_bytes");
    f.model_fingerprint = d.at("model_fingerprint");
    if (d.contains("in_map")) node.in_map = static_cast<node_state>(d.at("in_map").get<int>());
    node.draining = d.at("draining");
    node.operation = d.at("operation");
    node.removed = d.at("removed");
    return node;
  });
}

std::string to_json(const std::vector<replica_record>& replicas) {
  auto list = json::array();
  for (const auto& replica : replicas) {
    list.push_back({{"node", replica.node.value}, {"slot", replica.slot.value}, {"version", replica.version.value}});
  }
  return list.dump();
}

result<std::vector<replica_record>> replicas_from_json(std::string_view text) {
  return parse<std::vector<replica_record>>(text, "replica list", [](const json& list) {
    std::vector<replica_record> replicas;
    for (const auto& item : list) {
      replicas.push_back({{item.at("node").get<std::string>()}, {item.at("slot")}, {item.at("version")}});
    }
    return replicas;
  });
}

std::string to_json(const command_outcome& outcome) {
  return json{{"operation", outcome.operation}, {"verb", outcome.verb},
              {"node", outcome.node.value},     {"state", outcome.state},
              {"message", outcome.message},     {"replicas_to_move", outcome.replicas_to_move},
              {"expert", outcome.expert},       {"bytes_to_move", outcome.bytes_to_move},
              {"experts", outcome.experts}}
      .dump();
}

result<command_outcome> outcome_from_json(std::string_view text) {
  return parse<command_outcome>(text, "command", [](const json& d) {
    return command_outcome{d.at("operation"),
                           d.at("verb"),
                           {d.at("node").get<std::string>()},
                           d.at("state"),
                           d.at("message"),
                           d.at("replicas_to_move"),
                           d.value("expert", ""),
                           d.value("bytes_to_move", std::uint64_t{0}),
                           d.value("experts", 0U)};
  });
}

std::string to_json(const expert_wish& wish) { return to_document(wish).dump(); }

result<expert_wish> wish_from_json(std::string_view text) { return parse<expert_wish>(text, "wish", wish_from); }

std::string to_json(const operation_record& operation) {
  auto from = json::array();
  for (const auto& node : operation.from) from.push_back(node.value);
  return json{{"kind", static_cast<int>(operation.kind)},
              {"state", static_cast<int>(operation.state)},
              {"layer", operation.expert.layer.value},
              {"expert", operation.expert.index},
              {"node", operation.node.value},
              {"from", std::move(from)},
              {"replicas_before", operation.replicas_before},
              {"replicas_after", operation.replicas_after},
              {"before", to_document(operation.before)},
              {"cancelling", operation.cancelling},
              {"who", operation.who},
              {"since_unix_ms", operation.since_unix_ms},
              {"reason", operation.reason},
              {"why", operation.why},
              {"changes", to_document(operation.changes)},
              {"subject", operation.subject},
              {"is_failing", operation.is_failing},
              {"in_batches", operation.in_batches}}
      .dump();
}

result<operation_record> operation_from_json(std::uint64_t number, std::string_view text) {
  return parse<operation_record>(text, "operation", [number](const json& d) {
    operation_record operation;
    operation.number = number;
    operation.kind = static_cast<operation_kind>(d.at("kind").get<int>());
    operation.state = static_cast<operation_state>(d.at("state").get<int>());
    operation.expert = {{d.at("layer").get<std::uint32_t>()}, d.at("expert").get<std::uint32_t>()};
    operation.node.value = d.at("node");
    operation.from = nodes_from(d.at("from"));
    operation.replicas_before = d.at("replicas_before");
    operation.replicas_after = d.at("replicas_after");
    operation.before = wish_from(d.at("before"));
    operation.cancelling = d.at("cancelling");
    operation.who = d.at("who");
    operation.since_unix_ms = d.at("since_unix_ms");
    operation.reason = d.at("reason");
    operation.why = d.value("why", "");
    operation.changes = changes_from(d.value("changes", json::array()));
    operation.subject = d.value("subject", "");
    operation.is_failing = d.value("is_failing", false);
    operation.in_batches = d.value("in_batches", false);
    return operation;
  });
}

std::string to_json(const source_record& source) {
  return json{{"folder", source.folder},   {"operation", source.operation},
              {"experts", source.experts}, {"state", static_cast<int>(source.state)},
              {"who", source.who},         {"since_unix_ms", source.since_unix_ms}}
      .dump();
}

result<source_record> source_from_json(weights_version version, std::string_view text) {
  return parse<source_record>(text, "source of weights", [version](const json& d) {
    source_record source{version, d.at("folder"), d.at("operation"), d.at("experts")};
    source.state = static_cast<operation_state>(d.at("state").get<int>());
    source.who = d.at("who");
    source.since_unix_ms = d.at("since_unix_ms");
    return source;
  });
}

std::string to_json(const schedule_record& schedule) {
  return json{{"every_ms", schedule.every.count()},
              {"folder", schedule.folder},
              {"is_paused", schedule.is_paused},
              {"last_unix_ms", schedule.last_unix_ms},
              {"every_batches", schedule.every_batches},
              {"moves_max", schedule.moves_max},
              {"batches", schedule.batches}}
      .dump();
}

result<schedule_record> schedule_from_json(std::string_view text) {
  return parse<schedule_record>(text, "schedule", [](const json& d) {
    return schedule_record{std::chrono::milliseconds(d.at("every_ms").get<std::int64_t>()),
                           d.at("folder"),
                           d.at("is_paused"),
                           d.at("last_unix_ms"),
                           d.value("every_batches", std::uint64_t{}),
                           d.value("moves_max", 0U),
                           d.value("batches", std::uint64_t{})};
  });
}

std::string to_json(const scheduled_run& run) {
  return json{{"at_unix_ms", run.at_unix_ms},
              {"because", run.because},
              {"refresh", run.refresh},
              {"moves", run.moves},
              {"operation", run.operation},
              {"imbalance_before", run.imbalance_before},
              {"imbalance_after", run.imbalance_after},
              {"cold", run.cold},
              {"stale", run.stale},
              {"cold_named", to_document(run.cold_named)}}
      .dump();
}

result<scheduled_run> run_from_json(std::uint64_t number, std::string_view text) {
  return parse<scheduled_run>(text, "scheduled run", [number](const json& d) {
    return scheduled_run{number,
                         d.at("at_unix_ms"),
                         d.at("because"),
                         d.at("refresh"),
                         d.at("moves"),
                         d.at("operation"),
                         d.at("imbalance_before"),
                         d.at("imbalance_after"),
                         d.at("cold"),
                         d.at("stale"),
                         ids_from(d.at("cold_named"))};
  });
}

std::string to_json(const watch_record& watch) {
  auto experts = json::array();
  for (const auto& e : watch.experts) experts.push_back({e.index, e.since_unix_ms, e.rows, e.norms});
  return json{{"at_unix_ms", watch.at_unix_ms}, {"window_ms", watch.window.count()}, {"experts", std::move(experts)}}
      .dump();
}

result<watch_record> watch_from_json(layer_id layer, std::string_view text) {
  return parse<watch_record>(text, "record of what pruning has seen", [layer](const json& d) {
    watch_record watch{layer, d.at("at_unix_ms"), std::chrono::milliseconds(d.at("window_ms").get<std::int64_t>()), {}};
    for (const auto& e : d.at("experts")) {
      watch.experts.push_back({e.at(0).get<std::uint32_t>(), e.at(1).get<std::int64_t>(),
                               e.at(2).get<watch_record::parts>(), e.at(3).get<watch_record::parts>()});
    }
    return watch;
  });
}

std::string to_json(const placement_epoch& epoch) {
  json d{{"term", epoch.term.value},   {"epoch", epoch.epoch.value}, {"at_unix_ms", epoch.at_unix_ms},
         {"replicas", epoch.replicas}, {"nodes", json::array()},     {"experts", json::array()}};
  for (const auto& change : epoch.nodes)
    d["nodes"].push_back({change.node.value, static_cast<int>(change.what), change.why});
  for (const auto& change : epoch.experts) {
    d["experts"].push_back(
        {static_cast<int>(change.what), change.node.value, change.why, change.count, to_document(change.experts)});
  }
  return d.dump();
}

result<placement_epoch> epoch_from_json(std::string_view text) {
  return parse<placement_epoch>(text, "epoch", [](const json& d) {
    placement_epoch epoch{{d.at("term").get<std::uint64_t>()},
                          {d.at("epoch").get<std::uint64_t>()},
                          d.at("at_unix_ms"),
                          d.at("replicas"),
                          {},
                          {}};
    for (const auto& n : d.at("nodes")) {
      epoch.nodes.push_back(
          {{n.at(0).get<std::string>()}, static_cast<node_change::kind>(n.at(1).get<int>()), n.at(2)});
    }
    for (const auto& e : d.at("experts")) {
      epoch.experts.push_back({static_cast<expert_changes::kind>(e.at(0).get<int>()),
                               {e.at(1).get<std::string>()},
                               e.at(2),
                               e.at(3),
                               ids_from(e.at(4))});
    }
    return epoch;
  });
}

std::string to_json(const std::vector<expert_record>& experts) {
  auto list = json::array();
  for (const auto& expert : experts) {
    auto replicas = json::array();
    for (const auto& r : expert.replicas) replicas.push_back({r.node.value, r.slot.value, r.version.value});
    list.push_back({expert.expert.layer.value, expert.expert.index, static_cast<int>(expert.state),
                    expert.version.value, expert.digest ? model::to_hex(*expert.digest) : "", expert.masked,
                    std::move(replicas)});
  }
  return list.dump();
}

result<std::vector<expert_record>> experts_from_json(std::string_view text) {
  return parse<std::vector<expert_record>>(text, "list of experts", [](const json& list) {
    std::vector<expert_record> experts;
    for (const auto& e : list) {
      expert_record expert{{{e.at(0).get<std::uint32_t>()}, e.at(1).get<std::uint32_t>()},
                           static_cast<expert_state>(e.at(2).get<int>()),
                           {e.at(3).get<std::uint32_t>()},
                           model::parse_digest(e.at(4).get<std::string>()),
                           {},
                           e.at(5).get<bool>()};
      for (const auto& r : e.at(6))
        expert.replicas.push_back(
            {{r.at(0).get<std::string>()}, {r.at(1).get<std::uint32_t>()}, {r.at(2).get<std::uint32_t>()}});
      experts.push_back(std::move(expert));
    }
    return experts;
  });
}

}  // namespace troupe::coordinator
