#include "cli/admin_client.hpp"

#include <fmt/format.h>

#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/address.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/keys.hpp"
#include "common/wire/socket.hpp"
#include "proto/admin.pb.h"

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds connect_poll_interval{5};

std::string new_command_id() {
  std::string uuid;
  std::getline(std::ifstream{"/proc/sys/kernel/random/uuid"} >> std::ws, uuid);
  return uuid;
}

// Over TCP: the admin's key, and the coordinator's to know it by. The ipc folder guards itself.
result<wire::socket_options> socket_options_for(const std::filesystem::path& data_dir, const cluster_context& context) {
  wire::socket_options options;
  if (!wire::needs_curve(context.admin)) return options;
  auto keys = wire::load_key_pair(data_dir / context.admin_key);
  if (!keys) return fail(keys.error());
  for (const auto& [name, key] : context.server_keys) {
    if (name == "coordinator") options.client = {key, keys->public_key, keys->secret_key};
  }
  if (!options.client) {
    return fail(errc::not_found, fmt::format("the public key of the coordinator is not in {}; run troupe up again",
                                             (data_dir / "context.json").string()));
  }
  return options;
}

}  // namespace

struct admin_client::state {
  wire::socket socket;
  std::chrono::milliseconds timeout;
  std::string coordinator;  // its address, for errors

  [[nodiscard]] result<proto::AdminReply> exchange(proto::AdminRequest& request);
  [[nodiscard]] result<json> ask_for_document(proto::AdminRequest& request);
  [[nodiscard]] result<proto::AdminReply> wait_for_reply(const std::string& command_id);
  [[nodiscard]] error no_answer() const {
    return {errc::unavailable,
            fmt::format("the coordinator at {} does not answer ({} ms); start it again with troupe up", coordinator,
                        timeout.count())};
  }
};

result<proto::AdminReply> admin_client::state::exchange(proto::AdminRequest& request) {
  request.set_command_id(new_command_id());
  const auto deadline = clock::now() + timeout;
  while (true) {
    auto sent = wire::outgoing_message{}.send(socket, request);
    if (sent) break;
    // The connection is made in the background: until it stands there is nobody to send to.
    if (sent.error().code != errc::unavailable) return fail(sent.error());
    if (clock::now() >= deadline) return fail(no_answer());
    std::this_thread::sleep_for(connect_poll_interval);
  }
  auto reply = wait_for_reply(request.command_id());
  if (reply && reply->has_error() && reply->error().code() != proto::ERROR_UNSPECIFIED) {
    return fail(static_cast<errc>(reply->error().code()), reply->error().message());
  }
  return reply;
}

result<json> admin_client::state::ask_for_document(proto::AdminRequest& request) {
  auto reply = exchange(request);
  if (!reply) return fail(reply.error());
  auto document = json::parse(reply->json().empty() ? "{}" : reply->json(), nullptr, false);
  if (document.is_discarded())
    return fail(errc::corrupt, "the coordinator's answer is not JSON; are both of one version?");
  return document;
}

result<proto::AdminReply> admin_client::state::wait_for_reply(const std::string& command_id) {
  const auto deadline = clock::now() + timeout;
  wire::poller poller;
  poller.add(socket);
  for (auto now = clock::now(); now < deadline; now = clock::now()) {
    poller.wait(deadline - now);
    while (auto got = wire::receive(socket)) {
      if (!got->message) return fail(got->message.error());
      proto::AdminReply reply;
      if (auto parsed = got->message->parse(reply); !parsed) return fail(parsed.error());
      if (reply.command_id() == command_id) return reply;
    }
  }
  return fail(no_answer());
}

admin_client::admin_client(std::unique_ptr<state> s) : state_{std::move(s)} {}
admin_client::admin_client(admin_client&&) noexcept = default;
admin_client& admin_client::operator=(admin_client&&) noexcept = default;
admin_client::~admin_client() = default;

result<admin_client> admin_client::connect(const std::filesystem::path& data_dir, const cluster_context& context,
                                           std::chrono::milliseconds timeout) {
  auto options = socket_options_for(data_dir, context);
  if (!options) return fail(options.error());
  auto zmq = wire::context::make();
  if (!zmq) return fail(zmq.error());
  auto socket = wire::socket::open(*zmq, wire::socket_kind::dealer, *options);
  if (!socket) return fail(socket.error());
  if (auto connected = socket->connect(context.admin); !connected) return fail(connected.error());
  admin_client client{std::make_unique<state>(state{std::move(*socket), timeout, context.admin})};
  proto::AdminRequest hello;
  hello.mutable_hello()->set_wire_major(limits::wire_version_major);
  hello.mutable_hello()->set_wire_minor(limits::wire_version_minor);
  hello.mutable_hello()->set_cluster_id(context.cluster_id);
  hello.mutable_hello()->set_software("troupe/" TROUPE_VERSION);
  if (auto welcome = client.state_->exchange(hello); !welcome) return fail(welcome.error());
  return client;
}

result<json> admin_client::ask(const query& what) {
  proto::AdminRequest request;
  auto& body = *request.mutable_query();
  body.set_kind(static_cast<proto::QueryKind>(what.kind));
  body.set_layer(what.layer);
  body.set_node(what.node);
  body.set_events_after(what.events_after);
  body.set_expert(what.expert);
  return state_->ask_for_document(request);
}

result<json> admin_client::act(node_action action, const std::string& node, bool dry_run, bool force) {
  proto::AdminRequest request;
  switch (action) {
    case node_action::drain:
      request.mutable_drain()->set_node(node);
      request.mutable_drain()->set_dry_run(dry_run);
      break;
    case node_action::undrain:
      request.mutable_undrain()->set_node(node);
      request.mutable_undrain()->set_dry_run(dry_run);
      break;
    case node_action::remove:
      request.mutable_remove()->set_node(node);
      request.mutable_remove()->set_dry_run(dry_run);
      request.mutable_remove()->set_force(force);
      break;
  }
  return state_->ask_for_document(request);
}

result<json> admin_client::act(const expert_command& command) {
  proto::AdminRequest request;
  const auto fill = [&](auto& body) {
    body.set_layer(command.expert.layer.value);
    body.set_expert(command.expert.index);
    body.set_dry_run(command.dry_run);
  };
  switch (command.action) {
    case expert_action::migrate:
      fill(*request.mutable_migrate());
      request.mutable_migrate()->set_to(command.to);
      request.mutable_migrate()->set_from(command.from);
      break;
    case expert_action::replicate:
      fill(*request.mutable_replicate());
      request.mutable_replicate()->set_count(command.count);
      break;
    case expert_action::pin:
    case expert_action::unpin:
      fill(*request.mutable_pin());
      request.mutable_pin()->set_pinned(command.action == expert_action::pin);
      break;
    case expert_action::prune:
    case expert_action::restore:
    case expert_action::add:
      fill(*request.mutable_presence());
      request.mutable_presence()->set_verb(command.action == expert_action::prune     ? proto::PRUNE
                                           : command.action == expert_action::restore ? proto::RESTORE
                                                                                      : proto::ADD);
      break;
  }
  return state_->ask_for_document(request);
}

result<json> admin_client::refresh(const std::string& folder, const std::string& layer, bool dry_run,
                                   std::chrono::milliseconds timeout) {
  proto::AdminRequest request;
  request.mutable_refresh()->set_folder(folder);
  request.mutable_refresh()->set_layer(layer);
  request.mutable_refresh()->set_dry_run(dry_run);
  const auto usual = std::exchange(state_->timeout, timeout);
  auto answer = state_->ask_for_document(request);
  state_->timeout = usual;
  return answer;
}

result<json> admin_client::schedule(const schedule_command& command) {
  proto::AdminRequest request;
  auto& body = *request.mutable_schedule();
  body.set_every_ms(static_cast<std::uint64_t>(command.every.count()));
  body.set_every_batches(command.every_batches);
  body.set_max_moves(command.moves_max);
  body.set_folder(command.folder);
  body.set_paused(command.paused);
  body.set_dry_run(command.dry_run);
  return state_->ask_for_document(request);
}

result<json> admin_client::apply(const std::map<expert_id, std::vector<std::string>>& places, bool dry_run) {
  proto::AdminRequest request;
  request.mutable_apply()->set_dry_run(dry_run);
  for (const auto& [expert, nodes] : places) {
    auto& placed = *request.mutable_apply()->add_experts();
    placed.set_layer(expert.layer.value);
    placed.set_expert(expert.index);
    for (const auto& node : nodes) placed.add_nodes(node);
  }
  return state_->ask_for_document(request);
}

result<json> admin_client::roll_back(std::uint64_t epoch, bool dry_run) {
  proto::AdminRequest request;
  request.mutable_rollback()->set_epoch(epoch);
  request.mutable_rollback()->set_dry_run(dry_run);
  return state_->ask_for_document(request);
}

result<json> admin_client::cancel(const std::string& operation, bool dry_run) {
  proto::AdminRequest request;
  request.mutable_cancel()->set_operation(operation);
  request.mutable_cancel()->set_dry_run(dry_run);
  return state_->ask_for_document(request);
}

}  // namespace troupe::cli
