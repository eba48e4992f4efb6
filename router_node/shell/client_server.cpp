#include "router_node/shell/client_server.hpp"

#include <array>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "common/wire/keys.hpp"
#include "proto/client_router.pb.h"
#include "router_node/core/input_reservoir.hpp"
#include "router_node/shell/generate_message.hpp"
#include "router_node/shell/info_desk.hpp"
#include "router_node/shell/layer_service.hpp"
#include "router_node/shell/router_metrics.hpp"

namespace troupe::router {
namespace {

// Without a client id the connection stands for it.
template <class Request>
const std::string& client_of(const client_address& to, const Request& request) {
  return request.client_id().empty() ? to.routing_id : request.client_id();
}

template <class Request>
result<layer_job> make_job(const model_plan& plan, const Request& request,
                           const std::shared_ptr<const wire::incoming_message>& message, time_point now) {
  auto layer = plan.find(request.layer());
  if (!layer) return fail(layer.error());
  auto hidden = message->tensor(request.hidden(), "hidden");
  if (!hidden) return fail(hidden.error());
  if (auto fine = check_hidden(**layer, *hidden); !fine) return fail(fine.error());
  return layer_job{.layer = *layer,
                   .hidden = std::move(*hidden),
                   .keep = message,
                   .given = std::nullopt,
                   .policy = to_degrade(request.degrade()),
                   .arrived = now,
                   .deadline = now + request_timeout(request.timeout_ms()),
                   .done = {}};
}

}  // namespace

client_server::client_server(std::vector<wire::socket> sockets, const router_identity& self, const model_plan& plan,
                             layer_service& service, info_desk& desk, router_metrics& metrics, std::uint64_t seed,
                             std::function<void()> wake)
    : sockets_(std::move(sockets)),
      self_(self),
      plan_(plan),
      service_(service),
      desk_(desk),
      metrics_(metrics),
      replays_(limits::replay_cache_bytes_max, limits::replay_cache_age_max),
      streams_(*this, metrics, seed, std::move(wake)) {}

client_server::~client_server() = default;

void client_server::add_to(wire::poller& poller) {
  polled_.clear();
  for (const auto& socket : sockets_) polled_.push_back(poller.add(socket));
}

void client_server::handle(const wire::poller& poller, time_point now) {
  streams_.handle(now);
  for (std::size_t i = 0; i < sockets_.size(); ++i) {
    if (!poller.readable(polled_[i])) continue;
    for (int count = 0; count < limits::queued_messages_max; ++count) {
      auto got = wire::receive(sockets_[i]);
      if (!got) break;
      handle_message(i, *got, now);
    }
  }
}

void client_server::handle_message(std::size_t socket, wire::received& got, time_point now) {
  address to{.socket = socket, .routing_id = std::move(got.routing_id), .kind = got.answer_in};
  proto::ClientToRouter envelope;
  auto fine = got.message ? got.message->parse(envelope) : result<void>(fail(got.message.error()));
  if (!fine) {
    metrics_.on_bad_message();
    return send_failure(to, 0, fine.error());
  }
  switch (envelope.body_case()) {
    case proto::ClientToRouter::kHello:
      return on_hello(to, envelope.hello());
    case proto::ClientToRouter::kLayer:
      return on_layer(to, envelope.layer(), std::move(*got.message), now);
    case proto::ClientToRouter::kExperts:
      return on_experts(to, envelope.experts(), std::move(*got.message), now);
    case proto::ClientToRouter::kInfo:
      return on_info(to, envelope.info(), now);
    case proto::ClientToRouter::kGenerate:
      return on_generate(to, std::move(got.user_id), envelope.generate(), now);
    case proto::ClientToRouter::kCancel:
      return streams_.cancel({client_of(to, envelope.cancel()), envelope.cancel().request_id()});
    case proto::ClientToRouter::kTokenize:
      if (!may_ask(to, {envelope.tokenize().request_id(), {}})) return;
      return streams_.tokenize(to, envelope.tokenize());
    case proto::ClientToRouter::kInputs:
      return on_inputs(to, got.user_id, envelope.inputs());
    case proto::ClientToRouter::BODY_NOT_SET:  // the parser has refused it
      return send_failure(to, 0, {errc::invalid_request, "body: not set"});
  }
}

// -- handshake ----------------------------------------------------------------------------------------------------

void client_server::on_hello(const address& to, const proto::Hello& hello) {
  if (hello.wire_major() != limits::wire_version_major) {
    return send_failure(to, 0,
                        {errc::wrong_version,
                         fmt::format("this client speaks wire version {}.x, the router {}.x; upgrade the older one",
                                     hello.wire_major(), limits::wire_version_major)});
  }
  const auto cluster = self_.cluster_id();
  if (!hello.cluster_id().empty() && !cluster.empty() && hello.cluster_id() != cluster) {
    return send_failure(to, 0,
                        {errc::wrong_cluster, fmt::format("this client belongs to cluster {}, the router to {}",
                                                          hello.cluster_id().substr(0, 64), cluster)});
  }
  if (!session_places_.contains(to.routing_id)) {
    if (sessions_.size() >= limits::client_sessions_max) {
      session_places_.erase(sessions_.front());
      sessions_.pop_front();
    }
    session_places_[to.routing_id] = sessions_.insert(sessions_.end(), to.routing_id);
  }
  proto::RouterToClient envelope;
  auto& welcome = *envelope.mutable_welcome();
  welcome.set_wire_major(limits::wire_version_major);
  welcome.set_wire_minor(limits::wire_version_minor);
  welcome.set_cluster_id(cluster);
  welcome.set_node(self_.name.value);
  welcome.set_incarnation(self_.incarnation().value);
  welcome.set_software(limits::software);
  welcome.set_tensor_bytes_max(limits::tensor_bytes_max);
  welcome.set_envelope_bytes_max(limits::envelope_bytes_max);
  welcome.set_parts_max(limits::parts_per_message_max);
  welcome.set_rows_per_request_max(limits::rows_per_request_max);
  send(to, envelope, wire::outgoing_message(to.kind));
}

bool client_server::has_said_hello(const address& to) {
  const auto at = session_places_.find(to.routing_id);
  if (at == session_places_.end()) return false;
  sessions_.splice(sessions_.end(), sessions_, at->second);
  return true;
}

// -- requests -----------------------------------------------------------------------------------------------------

bool client_server::may_ask(const address& to, const request_name& name) {
  const auto refuse = [&](errc code, std::string message) {
    send_failure(to, name.number, {code, std::move(message)});
    return false;
  };
  if (!has_said_hello(to)) return refuse(errc::handshake_required, "say hello before the first request");
  if (name.key.client.size() > limits::client_id_bytes_max) {
    return refuse(errc::invalid_request,
                  fmt::format("client_id: {} bytes, at most {}", name.key.client.size(), limits::client_id_bytes_max));
  }
  if (is_closed_) return refuse(errc::unavailable, "this router is stopping; use another one");
  return true;
}

bool client_server::begin(const address& to, const request_name& name, time_point now) {
  if (!may_ask(to, name)) return false;
  const auto known = replays_.begin(name.key, now);
  switch (known.is) {
    case decltype(replays_)::state::in_progress:
      send_failure(to, name.number,
                   {errc::in_progress, fmt::format("request {} is being executed; its answer will come", name.number)});
      return false;
    case decltype(replays_)::state::answered:
      send_answer(to, name.number, known.answer);
      return false;
    case decltype(replays_)::state::is_new:
      return true;
  }
  return true;
}

void client_server::on_layer(const address& to, const proto::LayerRequest& request, wire::incoming_message message,
                             time_point now) {
  const request_name name{request.request_id(), {client_of(to, request), request.request_id()}};
  if (!begin(to, name, now)) return;
  auto kept = std::make_shared<const wire::incoming_message>(std::move(message));
  run(to, name, make_job(plan_, request, kept, now), now);
}

void client_server::on_experts(const address& to, const proto::ExpertsRequest& request, wire::incoming_message message,
                               time_point now) {
  const request_name name{request.request_id(), {client_of(to, request), request.request_id()}};
  if (!begin(to, name, now)) return;
  auto kept = std::make_shared<const wire::incoming_message>(std::move(message));
  auto job = make_job(plan_, request, kept, now);
  if (job && job->policy == degrade::substitute) {
    job = fail(errc::invalid_request,
               "degrade: substitute is not possible where the caller chose the experts; use wait, renormalise or fail");
  }
  if (job) {
    auto ids = kept->tensor(request.expert_ids(), "expert_ids");
    auto weights = kept->tensor(request.expert_weights(), "expert_weights");
    auto choice = !ids       ? result<model::routing>(fail(ids.error()))
                  : !weights ? result<model::routing>(fail(weights.error()))
                             : check_choice(*job->layer, job->hidden.shape[0], *ids, *weights);
    if (choice) {
      job->given = std::move(*choice);
    } else {
      job = fail(choice.error());
    }
  }
  run(to, name, std::move(job), now);
}

void client_server::run(const address& to, const request_name& name, result<layer_job> job, time_point now) {
  if (!job) {
    metrics_.on_refused(job.error().code);
    replays_.forget(name.key);
    return send_failure(to, name.number, job.error());
  }
  job->done = [this, to, name](layer_outcome outcome) { finish(to, name, std::move(outcome)); };
  static_cast<void>(service_.submit(std::move(*job), now));
}

void client_server::finish(const address& to, const request_name& name, layer_outcome outcome) {
  if (!outcome) {
    replays_.forget(name.key);
    return send_failure(to, name.number, outcome.error());
  }
  send_answer(to, name.number, *outcome);
  replays_.finish(name.key, *outcome, (*outcome)->bytes(), std::chrono::steady_clock::now());
  metrics_.on_replay_cache(replays_.bytes());
}

void client_server::on_generate(const address& to, std::string user, const proto::GenerateRequest& request,
                                time_point now) {
  const request_name name{request.request_id(), {client_of(to, request), request.request_id()}};
  if (!may_ask(to, name)) return;
  streams_.generate(to, name.key, user.empty() ? name.key.client : std::move(user), request, now);
}

void client_server::on_info(const address& to, const proto::InfoRequest& request, time_point now) {
  const auto number = request.request_id();
  if (!has_said_hello(to)) {
    return send_failure(to, number, {errc::handshake_required, "say hello before the first request"});
  }
  if (request.kind() < proto::STATUS || request.kind() > proto::MODEL) {
    return send_failure(to, number, {errc::invalid_request, "kind: not set; ask for STATUS, NODES, EXPERTS or MODEL"});
  }
  desk_.ask(
      static_cast<info_kind>(request.kind()), request.layer(),
      [this, to, number](result<std::string> json) {
        if (!json) return send_failure(to, number, json.error());
        proto::RouterToClient envelope;
        envelope.mutable_info()->set_request_id(number);
        envelope.mutable_info()->set_json(std::move(*json));
        send(to, envelope, wire::outgoing_message(to.kind));
      },
      now);
}

// Rows of other clients: for operators alone.
void client_server::on_inputs(const address& to, const std::string& user, const proto::InputsRequest& request) {
  const auto number = request.request_id();
  if (!may_ask(to, {number, {}})) return;
  if (!user.empty() && wire::role_of_user(user) != wire::peer_role::admin) {
    return send_failure(to, number, {errc::permission_denied, fmt::format("the key of {} is no admin key", user)});
  }
  auto layer = plan_.find(request.layer());
  if (!layer) return send_failure(to, number, layer.error());
  const expert_id expert{(*layer)->id, request.expert()};
  if (expert.index >= (*layer)->num_experts) {
    return send_failure(to, number, {errc::unknown_expert, fmt::format("no expert {}", to_string(expert))});
  }
  if (!service_.keeps_inputs()) {
    return send_failure(to, number,
                        {errc::conflict, fmt::format("{} keeps no inputs of cold experts; start the cluster with "
                                                     "troupe up --cold-reservoir-rows N",
                                                     self_.name.value)});
  }
  const auto* found = service_.inputs_of(expert);
  auto kept = std::make_shared<const kept_inputs>(found == nullptr ? kept_inputs{} : *found);
  proto::RouterToClient envelope;
  auto& reply = *envelope.mutable_inputs();
  reply.set_request_id(number);
  reply.set_epoch(kept->epoch.value);
  reply.set_rows_seen(kept->rows_seen);
  wire::outgoing_message message(to.kind);
  const std::uint64_t rows = kept->gate_weights.size();
  if (rows > 0) {
    const std::array<std::uint64_t, 2> shape{rows, (*layer)->hidden};
    auto fine = message.attach(*reply.mutable_hidden(), kept->type, shape, kept->rows, kept);
    const std::array<std::uint64_t, 1> each{rows};
    const auto weights = std::as_bytes(std::span(kept->gate_weights));
    if (fine) fine = message.attach(*reply.mutable_gate_weights(), dtype::f32, each, weights, kept);
    if (!fine) return send_failure(to, number, fine.error());
  }
  send(to, envelope, std::move(message));
}

// -- answers ------------------------------------------------------------------------------------------------------

void client_server::send_answer(const address& to, std::uint64_t number,
                                const std::shared_ptr<const layer_answer>& answer) {
  proto::RouterToClient envelope;
  auto& reply = *envelope.mutable_layer();
  reply.set_request_id(number);
  reply.set_epoch(answer->epoch.value);
  wire::outgoing_message message(to.kind);
  const std::array<std::uint64_t, 2> rows{answer->rows, answer->hidden};
  const std::array<std::uint64_t, 2> choice{answer->rows, answer->top_k};
  const std::array<std::uint64_t, 1> each{answer->rows};
  auto fine = message.attach(*reply.mutable_output(), answer->type, rows, answer->output, answer);
  if (answer->routed.empty()) {
    wire::share_part(reply.output(), *reply.mutable_routed_output());
  } else if (fine) {
    fine = message.attach(*reply.mutable_routed_output(), answer->type, rows, answer->routed, answer);
  }
  const auto ids = std::as_bytes(std::span(answer->expert_ids));
  const auto weights = std::as_bytes(std::span(answer->expert_weights));
  const auto flags = std::as_bytes(std::span(answer->flags));
  if (fine) fine = message.attach(*reply.mutable_expert_ids(), dtype::i32, choice, ids, answer);
  if (fine) fine = message.attach(*reply.mutable_expert_weights(), dtype::f32, choice, weights, answer);
  if (fine) fine = message.attach(*reply.mutable_flags(), dtype::u8, each, flags, answer);
  if (!fine) return send_failure(to, number, fine.error());
  send(to, envelope, std::move(message));
}

void client_server::send_failure(const address& to, std::uint64_t number, const error& reason) {
  proto::RouterToClient envelope;
  auto& failure = *envelope.mutable_failure();
  failure.set_request_id(number);
  failure.mutable_error()->set_code(static_cast<proto::ErrorCode>(reason.code));
  failure.mutable_error()->set_message(reason.message);
  failure.set_elsewhere(is_closed_ && reason.code == errc::unavailable);
  if (is_retryable(reason.code)) {
    failure.mutable_error()->set_retry_after_ms(static_cast<std::uint64_t>(limits::retry_hint.count()));
  }
  send(to, envelope, wire::outgoing_message(to.kind));
}

result<void> client_server::send(const address& to, const proto::RouterToClient& envelope) {
  return wire::outgoing_message(to.kind).send(sockets_[to.socket], envelope, to.routing_id);
}

// A client that is gone, or does not read, gets nothing: it will ask again under the same number, or not at all.
void client_server::send(const address& to, const proto::RouterToClient& envelope, wire::outgoing_message message) {
  if (auto sent = message.send(sockets_[to.socket], envelope, to.routing_id); !sent) {
    spdlog::debug("answer to a client dropped: {}", sent.error().message);
  }
}

}  // namespace troupe::router
