#include "router_node/shell/info_desk.hpp"

#include <algorithm>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/layer_json.hpp"
#include "common/limits.hpp"
#include "model/checkpoint.hpp"

namespace troupe::router {
namespace {

using nlohmann::json;

std::string dump(const json& document) { return document.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

info_desk::info_desk(const router_identity& self, const model_plan& plan, ask_coordinator ask)
    : self_(self), plan_(plan), ask_(std::move(ask)) {}

void info_desk::ask(info_kind kind, const std::string& layer, answer done, time_point now) {
  if (kind == info_kind::model) return done(describe_model());
  if (!layer.empty()) {
    if (auto known = plan_.find(layer); !known) return done(fail(known.error()));
  }
  const auto id = ++last_query_;
  if (auto asked = ask_(id, kind, layer); !asked) return done(from_map(kind, layer, asked.error()));
  questions_.emplace(id, question{kind, layer, std::move(done), now + limits::coordinator_query_timeout});
}

void info_desk::on_reply(std::uint64_t query_id, result<std::string> json) {
  auto node = questions_.extract(query_id);
  if (node.empty()) return;
  auto& asked = node.mapped();
  if (!json && json.error().code == errc::unavailable) json = from_map(asked.kind, asked.layer, json.error());
  asked.done(std::move(json));
}

void info_desk::tick(time_point now) {
  std::vector<std::uint64_t> late;
  for (const auto& [id, asked] : questions_) {
    if (asked.until <= now) late.push_back(id);
  }
  for (const auto id : late) on_reply(id, fail(errc::unavailable, "the coordinator does not answer"));
}

time_point info_desk::next_tick() const {
  auto next = time_point::max();
  for (const auto& [id, asked] : questions_) next = std::min(next, asked.until);
  return next;
}

// -- documents ----------------------------------------------------------------------------------------------------

result<std::string> info_desk::from_map(info_kind kind, const std::string& layer, const error& reason) const {
  if (!map_) return fail(reason);
  switch (kind) {
    case info_kind::status:
      return status_from_map(reason.message);
    case info_kind::nodes:
      return nodes_from_map(reason.message);
    case info_kind::experts:
      return experts_from_map(layer, reason.message);
    case info_kind::model:
      return describe_model();
  }
  return fail(errc::invalid_request, "unknown kind of question");
}

std::string info_desk::status_from_map(const std::string& notice) const {
  auto nodes = json::array({{{"name", "coordinator"}, {"role", "coordinator"}, {"state", "lost"}}});
  for (const auto& node : map_->nodes)
    nodes.push_back({{"name", node.name.value}, {"role", to_string(node.role)}, {"state", to_string(node.state)}});
  std::size_t most = 0;
  for (const auto& layer : plan_.layers()) most = std::max<std::size_t>(most, layer.num_experts);
  return dump({{"cluster_id", map_->cluster_id},
               {"state", "degraded"},
               {"notice", notice},
               {"term", map_->term.value},
               {"epoch", map_->epoch.value},
               {"model",
                {{"name", self_.model->name},
                 {"family", self_.model->family},
                 {"layers", plan_.layers().size()},
                 {"experts_per_layer", most}}},
               {"nodes", std::move(nodes)},
               {"unroutable_experts", map_->unroutable_experts()},
               {"operations_running", nullptr},
               {"reasons", json::array({notice})}});
}

std::string info_desk::nodes_from_map(const std::string& notice) const {
  auto items = json::array();
  for (const auto& node : map_->nodes) {
    items.push_back({{"name", node.name.value},
                     {"role", to_string(node.role)},
                     {"state", to_string(node.state)},
                     {"pid", nullptr},
                     {"address", node.data_address},
                     {"device", nullptr},
                     {"slots_total", nullptr},
                     {"slots_used", nullptr},
                     {"bytes_resident", nullptr},
                     {"bytes_capacity", nullptr},
                     {"incarnation", node.incarnation.value}});
  }
  return dump({{"items", std::move(items)}, {"notice", notice}});
}

std::string info_desk::experts_from_map(const std::string& layer, const std::string& notice) const {
  auto items = json::array();
  for (const auto& e : map_->experts) {
    if (!layer.empty() && parse_layer(layer) != e.id.layer) continue;
    auto replicas = json::array();
    for (const auto& r : e.replicas) {
      replicas.push_back(
          {{"node", map_->nodes[r.node].name.value}, {"slot", r.slot.value}, {"version", r.version.value}});
    }
    const auto* layout = self_.model->find(e.id);
    items.push_back({{"layer", layer_json<json>(e.id.layer)},
                     {"expert", e.id.index},
                     {"state", to_string(e.state)},
                     {"version", e.version.value},
                     {"digest", e.digest ? json(model::to_hex(*e.digest)) : json(nullptr)},
                     {"bytes", layout != nullptr ? json(layout->bytes()) : json(nullptr)},
                     {"replicas", std::move(replicas)},
                     {"tokens_total", nullptr},
                     {"share", nullptr},
                     {"last_used", nullptr},
                     {"pinned", nullptr}});
  }
  return dump({{"items", std::move(items)}, {"notice", notice}});
}

std::string info_desk::describe_model() const {
  const auto& model = *self_.model;
  auto layers = json::array();
  for (const auto& layer : model.layers) {
    layers.push_back({{"layer", layer_json<json>(layer.id)},
                      {"experts", layer.gate.num_experts},
                      {"top_k", layer.gate.top_k},
                      {"hidden_size", layer.shape.hidden},
                      {"width", layer.shape.width},
                      {"shared_experts", layer.shared.has_value()},
                      {"capacity", layer.gate.capacity.order != model::fill_order::none}});
  }
  return dump({{"name", model.name},
               {"family", model.family},
               {"hidden_size", model.hidden},
               {"stored_dtype", model::stored_name(model.stored)},
               {"dtype", to_string(self_.type)},
               {"fingerprint", model.fingerprint},
               {"layers", std::move(layers)}});
}

}  // namespace troupe::router
