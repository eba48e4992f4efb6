#include "coordinator/core/membership.hpp"

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::coordinator::membership {
namespace {

void refuse(cluster_state& state, const join_request& request, errc code, std::string text,
            std::uint32_t retry_after_ms = 0) {
  state.tell(severity::warning, "join_refused", request.node.value, text);
  state.out.messages.push_back(
      {request.peer, request.node,
       join_reply{error{code, std::move(text)}, retry_after_ms, state.term, state.published->epoch}});
}

void accept(cluster_state& state, const std::string& peer, const node_id& name) {
  state.out.messages.push_back({peer, name, join_reply{std::nullopt, 0, state.term, state.published->epoch}});
}

// What is wrong with the request whoever is there already; nullopt: nothing.
std::optional<error> objection(const cluster_state& state, const join_request& request) {
  const auto& facts = request.facts;
  const auto& ours = state.settings;
  if (!is_valid_node_name(request.node.value)) {
    return error{errc::invalid_request,
                 "the node's name is empty or has forbidden characters; use [a-z0-9][a-z0-9.-]*"};
  }
  if (!request.cluster_id.empty() && request.cluster_id != ours.cluster_id) {
    return error{errc::wrong_cluster,
                 fmt::format("node {} belongs to cluster {}, this is {}; stop it, or point it to its own coordinator",
                             request.node.value, request.cluster_id, ours.cluster_id)};
  }
  if (facts.role != node_role::expert && facts.role != node_role::router) {
    return error{errc::invalid_request,
                 fmt::format("node {} joins in no known role; use expert or router", request.node.value)};
  }
  if (!facts.model_fingerprint.empty() && facts.model_fingerprint != ours.model_fingerprint) {
    return error{
        errc::conflict,
        fmt::format("node {} has another model (fingerprint {:.12}), this cluster serves {:.12}; start it with "
                    "the same checkpoint folder",
                    request.node.value, facts.model_fingerprint, ours.model_fingerprint)};
  }
  if (facts.role == node_role::expert && facts.slots_total == 0) {
    return error{errc::invalid_request,
                 fmt::format("expert node {} offers no slot; start it with --slots 1 or more", request.node.value)};
  }
  return std::nullopt;
}

// Replicas of one expert must compute alike, whichever of them is asked.
std::optional<error> dtype_objection(const cluster_state& state, const join_request& request) {
  if (request.facts.role != node_role::expert || request.facts.dtype.empty()) return std::nullopt;
  for (const auto& [name, node] : state.nodes) {
    if (name == request.node || !node.is_expert() || !is_member(node) || node.facts.dtype.empty()) continue;
    if (node.facts.dtype == request.facts.dtype) continue;
    return error{errc::conflict,
                 fmt::format("node {} computes in {}, but {} in {}; start all expert nodes with the same --dtype",
                             request.node.value, request.facts.dtype, name.value, node.facts.dtype)};
  }
  return std::nullopt;
}

bool is_crash_looping(cluster_state& state, node_entry& node) {
  while (!node.losses.empty() && state.now - node.losses.front() > limits::crash_loop_window) node.losses.pop_front();
  return node.losses.size() >= limits::crash_loop_losses;
}

bool is_same_process(const node_entry& node, const join_request& request) {
  return node.facts.pid != 0 && node.facts.pid == request.facts.pid &&
         node.facts.machine_id == request.facts.machine_id && node.facts.data_address == request.facts.data_address;
}

// The request's process is the node from now on; whatever its predecessor held is gone until it is reported.
void take_over(cluster_state& state, const join_request& request) {
  auto& node = state.nodes[request.node];
  bool known = node.incarnation.value != 0 && !node.removed;
  bool was_lost = known && std::holds_alternative<node_lost>(node.life);
  if (known && !was_lost) node.losses.push_back(state.now);

  node_entry fresh;
  fresh.peer = request.peer;
  fresh.incarnation = request.incarnation;
  fresh.facts = request.facts;
  if (fresh.facts.zone.empty()) fresh.facts.zone = fresh.facts.machine_id;
  fresh.last_heard = state.now;
  fresh.inventory_due = state.now + limits::order_resend_after;
  fresh.losses = std::move(node.losses);
  fresh.missed = node.missed;
  fresh.restarts = node.restarts + (known && !is_same_process(node, request) ? 1 : 0);
  if (known) fresh.drain = std::move(node.drain);
  if (fresh.drain) fresh.drain->done = false;
  fresh.life = node_joining{state.now, was_lost, state.now, false};
  node = std::move(fresh);
  if (is_crash_looping(state, node)) {
    quarantine(state, request.node, node,
               fmt::format("lost {} times within {} s, look into its log", node.losses.size(),
                           limits::crash_loop_window / std::chrono::seconds(1)),
               state.now + limits::quarantine_pause);
  }
  if (node.is_expert() && !state.first_join) state.first_join = state.now;
  accept(state, request.peer, request.node);
  state.tell(severity::info, "node_joined", request.node.value,
             fmt::format("{} joined as {} at {}, incarnation {}", request.node.value, to_string(node.facts.role),
                         node.facts.data_address, node.incarnation.value));
  state.dirty = true;
}

// The incarnation that has the session, or had it before this coordinator started, is speaking again.
void join_again(cluster_state& state, node_entry& node, const join_request& request) {
  node.peer = request.peer;
  node.facts = request.facts;
  if (node.facts.zone.empty()) node.facts.zone = node.facts.machine_id;
  node.last_heard = state.now;
  node.map_sent.reset();
  accept(state, request.peer, request.node);
  if (node.is_expert()) state.out.messages.push_back({request.peer, request.node, inventory_request{}});
  if (node.is_expert() && !state.first_join) state.first_join = state.now;
  state.dirty = true;
}

void join_with_other_incarnation(cluster_state& state, node_entry& node, const join_request& request) {
  bool seems_alive = is_member(node) && state.now - node.last_heard < limits::heartbeat_suspect_after;
  if (!seems_alive || is_same_process(node, request)) {
    take_over(state, request);
    return;
  }
  if (node.contested && node.contested->request.incarnation == request.incarnation) {
    node.contested->request = request;
    return;
  }
  node.contested = contested_join{request, state.now, 0};
}

}  // namespace

void join(cluster_state& state, const join_request& request) {
  if (!state.term_durable || state.stopping) {
    refuse(state, request, errc::unavailable,
           state.stopping ? "the cluster is being stopped; no node is taken in" : "the coordinator is starting",
           static_cast<std::uint32_t>(limits::order_resend_after.count()));
    return;
  }
  if (auto wrong = objection(state, request)) return refuse(state, request, wrong->code, wrong->message);
  if (auto wrong = dtype_objection(state, request)) return refuse(state, request, wrong->code, wrong->message);

  auto* node = state.find(request.node);
  if (node == nullptr) {
    if (state.nodes.size() >= limits::nodes_max) {
      return refuse(state, request, errc::overloaded,
                    fmt::format("the cluster has {} nodes, its limit; remove lost ones with: troupe node remove NAME",
                                state.nodes.size()));
    }
    return take_over(state, request);
  }
  if (is_member(*node) && node->facts.role != request.facts.role) {
    return refuse(
        state, request, errc::conflict,
        fmt::format("the name {} belongs to the {} at {}; give the one at {} another --name", request.node.value,
                    to_string(node->facts.role), node->facts.data_address, request.facts.data_address));
  }
  if (node->incarnation != request.incarnation) return join_with_other_incarnation(state, *node, request);
  if (node->removed) {
    return refuse(
        state, request, errc::permission_denied,
        fmt::format("node {} was removed by an operator; start it anew to let it join again", request.node.value));
  }
  if (std::holds_alternative<node_lost>(node->life)) {
    return refuse(state, request, errc::stale_epoch,
                  fmt::format("incarnation {} of {} was declared lost; join again with a new incarnation",
                              request.incarnation.value, request.node.value));
  }
  join_again(state, *node, request);
}

void lose(cluster_state& state, const node_id& name, std::string reason) {
  auto& node = state.nodes.at(name);
  state.tell(severity::error, "node_lost", name.value,
             fmt::format("{} is lost: {}; {} replicas are gone with it", name.value, reason, node.slots.size()));
  node.life = node_lost{state.now, std::move(reason)};
  node.losses.push_back(state.now);
  node.slots.clear();
  node.paces.clear();
  node.peer.clear();
  ++state.nodes_lost;
  state.forget_reports(name);
  state.dirty = true;
}

void quarantine(cluster_state& state, const node_id& name, node_entry& node, const std::string& reason,
                std::optional<time_point> until) {
  node.slots.clear();
  state.dirty = true;
  const auto* known = std::get_if<node_quarantined>(&node.life);
  if (known != nullptr && known->reason == reason && known->until == until) return;
  node.life = node_quarantined{reason, until};
  state.tell(severity::error, "node_quarantined", name.value,
             fmt::format("{} gets no work {}: {}", name.value,
                         until ? fmt::format("for {} s", (*until - state.now) / std::chrono::seconds(1))
                               : "until it is started anew",
                         reason));
}

void note_paces(cluster_state& state, const node_id& router, node_entry& entry, const std::vector<pace_report>& paces) {
  std::map<node_id, pace_report> now;
  for (const auto& report : paces) {
    const auto known = entry.paces.find(report.node);
    const auto before = known == entry.paces.end() ? node_pace::normal : known->second.pace;
    const auto node = state.nodes.find(report.node);
    if (node == state.nodes.end() || !node->second.is_expert()) continue;
    if (report.pace != node_pace::normal) now.emplace(report.node, report);
    if (report.pace == before) continue;
    const auto kind = fmt::format("node_pace_{}", to_string(report.pace));
    const auto level = report.pace == node_pace::normal ? severity::info : severity::warning;
    state.tell(
        level, kind, report.node.value,
        fmt::format("{} is {} for {}: {}", report.node.value, to_string(report.pace), router.value, report.reason));
  }
  entry.paces = std::move(now);
}

void leave(cluster_state& state, const leave_request& request) {
  auto* node = state.find_member(request.node, request.incarnation);
  if (node == nullptr) return;
  state.dirty = true;
  bool holds_nothing = node->slots.empty();
  if (!node->is_expert() || (holds_nothing && node->is_draining())) {
    state.tell(severity::info, "node_left", request.node.value, fmt::format("{} left", request.node.value));
    state.forget_reports(request.node);
    state.nodes.erase(request.node);
    return;
  }
  lose(state, request.node, "it was stopped");
  state.nodes.at(request.node).losses.pop_back();  // in order, so no sign of a crash loop
}

void note_sign_of_life(cluster_state& state, const node_id& name, node_entry& node) {
  if (auto* joining = std::get_if<node_joining>(&node.life)) {
    if (state.now - node.last_heard > limits::heartbeat_suspect_after) joining->steady_since = state.now;
  }
  // What waits for a sign of life since the routers' new map goes on.
  if (node.last_heard <= state.last_acked) state.dirty = true;
  node.last_heard = state.now;
  if (!std::holds_alternative<node_suspect>(node.life)) return;
  node.life = node_serving{state.now};
  state.tell(severity::info, "node_back", name.value, fmt::format("{} is heard again", name.value));
  state.dirty = true;
}

void heard(cluster_state& state, const heartbeat& beat) {
  auto* node = state.find_member(beat.node, beat.incarnation);
  if (node == nullptr) return;
  if (node->contested && ++node->contested->old_heartbeats >= 2) {
    auto newcomer = std::move(node->contested->request);
    node->contested.reset();
    refuse(state, newcomer, errc::conflict,
           fmt::format("a node named {} is there already at {} (pid {}), and the one at {} (pid {}) has the same name; "
                       "stop one of them or give it another --name",
                       beat.node.value, node->facts.data_address, node->facts.pid, newcomer.facts.data_address,
                       newcomer.facts.pid));
  }
  note_sign_of_life(state, beat.node, *node);
  node->heard_epoch = beat.epoch;
}

void forgive_silence(cluster_state& state, duration pause) {
  for (auto& [name, node] : state.nodes) {
    node.last_heard += pause;
    if (node.contested) node.contested->since += pause;
    if (auto* expected = std::get_if<node_expected>(&node.life)) expected->until += pause;
    if (auto* joining = std::get_if<node_joining>(&node.life)) joining->steady_since += pause;
  }
}

namespace {

void serve(cluster_state& state, const node_id& name, node_entry& node) {
  node.life = node_serving{state.now};
  state.tell(severity::info, "node_serving", name.value, fmt::format("{} is ready for work", name.value));
  state.dirty = true;
}

void advance_joining(cluster_state& state, const node_id& name, node_entry& node) {
  const auto& joining = std::get<node_joining>(node.life);
  if (!node.is_expert()) {
    if (node.acked_term == state.term && node.acked_epoch.value > 0) serve(state, name, node);
    return;
  }
  bool steady = !joining.probation || state.now - joining.steady_since >= limits::heartbeat_readmit_after;
  bool fresh = state.now - node.last_heard < limits::heartbeat_suspect_after;
  if (joining.reported && steady && fresh) serve(state, name, node);
}

// True: the node is to be forgotten.
bool advance_node(cluster_state& state, const node_id& name, node_entry& node) {
  if (node.removed) return false;
  if (const auto* lost = std::get_if<node_lost>(&node.life)) {
    return !node.is_expert() && state.now - lost->since > limits::lost_router_kept;
  }
  auto silence = state.now - node.last_heard;
  if (!std::holds_alternative<node_expected>(node.life)) node.missed.look(silence);
  if (node.contested && state.now - node.contested->since >= limits::heartbeat_suspect_after) {
    auto newcomer = std::move(node.contested->request);
    node.contested.reset();
    take_over(state, newcomer);
    return false;
  }
  if (const auto* expected = std::get_if<node_expected>(&node.life)) {
    if (state.now >= expected->until) lose(state, name, "it did not report after the coordinator's restart");
    return false;
  }
  if (silence > limits::heartbeat_lost_after) {
    lose(state, name,
         fmt::format("no heartbeat for {} ms", std::chrono::duration_cast<std::chrono::milliseconds>(silence).count()));
    return false;
  }
  if (std::holds_alternative<node_joining>(node.life)) advance_joining(state, name, node);
  if (std::holds_alternative<node_serving>(node.life) && silence > limits::heartbeat_suspect_after) {
    node.life = node_suspect{state.now};
    state.tell(severity::warning, "node_suspect", name.value, fmt::format("{} is silent", name.value));
    state.dirty = true;
  }
  if (const auto* quarantined = std::get_if<node_quarantined>(&node.life);
      quarantined != nullptr && quarantined->until && state.now >= *quarantined->until) {
    node.life = node_joining{state.now, true, state.now, node.inventory_sequence > 0};
  }
  return false;
}

}  // namespace

void advance(cluster_state& state) {
  for (auto at = state.nodes.begin(); at != state.nodes.end();) {
    at = advance_node(state, at->first, at->second) ? state.nodes.erase(at) : std::next(at);
  }
}

}  // namespace troupe::coordinator::membership
