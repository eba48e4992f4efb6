#include "coordinator/shell/control_server.hpp"

#include <algorithm>
#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/daemon/log.hpp"
#include "common/limits.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/keys.hpp"
#include "coordinator/shell/messages.hpp"
#include "coordinator/shell/record_json.hpp"
#include "proto/admin.pb.h"
#include "proto/node_coordinator.pb.h"

namespace troupe::coordinator {
namespace {

// A connection that has said hello.
struct session {
  std::string node;  // empty: a client of the admin socket
  std::uint64_t last_used{};
};

struct outgoing {
  bool to_admin{};
  std::string peer;
  std::shared_ptr<const google::protobuf::MessageLite> message;
};

// May a peer with this key speak as `node`? Without CURVE there is no key and the folder's mode has decided.
result<void> check_key(const std::string& user_id, const std::string& node) {
  auto colon = user_id.find(':');
  if (colon == std::string::npos || user_id.substr(colon + 1) == node) return {};
  return fail(errc::permission_denied, fmt::format("the key of {} says hello as {}; give each node its own key",
                                                   user_id, node.empty() ? "nobody" : node));
}

// Whose event it is; nullptr: nobody's.
const node_id* speaker_of(const event& what) {
  return std::visit(
      [](const auto& e) -> const node_id* {
        if constexpr (requires { e.node; }) return &e.node;
        return nullptr;
      },
      what);
}

}  // namespace

class control_server::loop {
 public:
  loop(control_server_options options, wire::socket control, wire::socket admin, wire::wake_signal wake)
      : options_(std::move(options)), control_(std::move(control)), admin_(std::move(admin)), wake_(std::move(wake)) {}

  void start() {
    thread_ = std::thread([this] { run(); });
  }
  void stop() {
    stopping_.store(true);
    wake_.wake();
    if (thread_.joinable()) thread_.join();
  }

  void enqueue(bool to_admin, std::string peer, std::shared_ptr<const google::protobuf::MessageLite> message) {
    {
      std::lock_guard lock(mutex_);
      // Everything here is repeated when it gets lost, so under a flood the oldest may go.
      if (queue_.size() >= limits::control_queue_max) queue_.pop_front();
      queue_.push_back({to_admin, std::move(peer), std::move(message)});
    }
    wake_.wake();
  }

  [[nodiscard]] std::uint64_t refused() const { return refused_.load(); }

 private:
  void run() {
    wire::poller waiting;
    waiting.add(control_);
    waiting.add(admin_);
    waiting.add(wake_);
    while (true) {
      waiting.wait(limits::heartbeat_lost_after);
      wake_.clear();
      while (auto got = wire::receive(control_)) handle_node(*got);
      while (auto got = wire::receive(admin_)) handle_admin(*got);
      send_queued();
      if (stopping_.load()) return;  // after what was queued before: the last answers leave
    }
  }

  void send_queued() {
    std::deque<outgoing> now;
    {
      std::lock_guard lock(mutex_);
      now.swap(queue_);
    }
    for (const auto& item : now) {
      auto sent = wire::outgoing_message().send(item.to_admin ? admin_ : control_, *item.message, item.peer);
      if (!sent && sent.error().code == errc::too_large)
        spdlog::error("message to {}: {}", item.peer, sent.error().message);
    }
  }

  // -- nodes

  void handle_node(const wire::received& got) {
    proto::NodeToCoordinator message;
    auto parsed = got.message ? got.message->parse(message) : result<void>(fail(got.message.error()));
    if (!parsed) return refuse_node(got, parsed.error());
    if (message.has_hello()) return greet_node(got, message.hello());
    auto known = sessions_.find(got.routing_id);
    if (known == sessions_.end()) {
      return refuse_node(got, {errc::handshake_required, "say hello first"});
    }
    known->second.last_used = ++uses_;
    if (message.has_query()) return ask_for_node(got, message.query());
    auto what = event_from(message, got.routing_id);
    if (!what) return refuse_node(got, what.error());
    if (!*what) return;
    if (auto allowed = check_speaker(**what, known->second, got.user_id); !allowed) {
      return refuse_node(got, allowed.error());
    }
    options_.on_event(*std::move(*what));
  }

  // A node speaks for itself alone, and joins in the role that its key has (faults.md H5).
  static result<void> check_speaker(const event& what, const session& speaker, const std::string& user_id) {
    const auto* name = speaker_of(what);
    if (name != nullptr && name->value != speaker.node) {
      return fail(errc::permission_denied, fmt::format("{} cannot speak for {}", speaker.node, name->value));
    }
    const auto* join = std::get_if<join_request>(&what);
    if (join == nullptr) return {};
    auto role = wire::role_of_user(user_id);
    if (!role) return {};
    bool fits = (*role == wire::peer_role::expert && join->facts.role == node_role::expert) ||
                (*role == wire::peer_role::router && join->facts.role == node_role::router);
    if (fits) return {};
    return fail(errc::permission_denied,
                fmt::format("the key of {} does not allow to join as {}", user_id, to_string(join->facts.role)));
  }

  void greet_node(const wire::received& got, const proto::Hello& hello) {
    auto checked = check_hello(hello, options_.cluster_id);
    if (checked) checked = check_key(got.user_id, hello.node());
    if (!checked) return refuse_node(got, checked.error());
    remember(sessions_, got.routing_id, hello.node());
    proto::CoordinatorToNode answer;
    fill_welcome(options_.cluster_id, options_.name, options_.incarnation, *answer.mutable_welcome());
    static_cast<void>(wire::outgoing_message().send(control_, answer, got.routing_id));
  }

  void ask_for_node(const wire::received& got, const proto::NodeQuery& query) {
    ask question;
    question.from.peer = got.routing_id;
    question.from.query_id = query.query_id();
    question.kind = static_cast<question_kind>(query.kind());
    question.layer = query.layer();
    options_.on_question(std::move(question));
  }

  void refuse_node(const wire::received& got, const error& why) {
    count_refusal(got, why);
    proto::CoordinatorToNode answer;
    to_proto(why, *answer.mutable_refused());
    static_cast<void>(wire::outgoing_message().send(control_, answer, got.routing_id));
  }

  // -- operators

  void handle_admin(const wire::received& got) {
    proto::AdminRequest message;
    auto parsed = got.message ? got.message->parse(message) : result<void>(fail(got.message.error()));
    if (!parsed) return refuse_admin(got, "", parsed.error());
    const auto& id = message.command_id();
    auto role = wire::role_of_user(got.user_id);
    if (role && *role != wire::peer_role::admin) {
      return refuse_admin(got, id,
                          {errc::permission_denied, fmt::format("the key of {} is no admin key", got.user_id)});
    }
    if (message.has_hello()) return greet_admin(got, message);
    if (!admins_.contains(got.routing_id)) return refuse_admin(got, id, {errc::handshake_required, "say hello first"});
    if (message.has_query()) {
      const auto& query = message.query();
      auto kind = static_cast<question_kind>(query.kind());
      if (query.kind() == proto::QUERY_UNSPECIFIED) {
        return refuse_admin(got, id, {errc::invalid_request, "query.kind is missing"});
      }
      ask question;
      question.from.from_admin = true;
      question.from.peer = got.routing_id;
      question.from.command_id = id;
      question.kind = kind;
      question.layer = query.layer();
      question.node = query.node();
      question.events_after = query.events_after();
      question.expert = query.expert();
      return options_.on_question(std::move(question));
    }
    auto command = command_from(message, got.routing_id);
    if (!command) return refuse_admin(got, id, command.error());
    if (!*command) return refuse_admin(got, id, {errc::invalid_request, "the request asks for nothing"});
    (*command)->who = got.user_id.empty() ? "the admin socket" : got.user_id;
    (*command)->at_unix_ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch())
            .count();
    spdlog::info("command {} from {}", id, (*command)->who);
    options_.on_event(*std::move(*command));
  }

  void greet_admin(const wire::received& got, const proto::AdminRequest& message) {
    if (auto checked = check_hello(message.hello(), options_.cluster_id); !checked) {
      return refuse_admin(got, message.command_id(), checked.error());
    }
    remember(admins_, got.routing_id, "");
    proto::AdminReply answer;
    answer.set_command_id(message.command_id());
    fill_welcome(options_.cluster_id, options_.name, options_.incarnation, *answer.mutable_welcome());
    static_cast<void>(wire::outgoing_message().send(admin_, answer, got.routing_id));
  }

  void refuse_admin(const wire::received& got, const std::string& command_id, const error& why) {
    count_refusal(got, why);
    proto::AdminReply answer;
    answer.set_command_id(command_id);
    to_proto(why, *answer.mutable_error());
    static_cast<void>(wire::outgoing_message().send(admin_, answer, got.routing_id));
  }

  // -- both

  void count_refusal(const wire::received& got, const error& why) {
    ++refused_;
    static daemon::log_limit limit;
    if (auto dropped = limit.admit()) {
      spdlog::warn("refused a message of {}: {}{}", got.peer_address.empty() ? "a local peer" : got.peer_address,
                   why.message, daemon::dropped_note(*dropped));
    }
  }

  // Connections come and go under new ids: the one that was silent longest makes room.
  void remember(std::map<std::string, session>& table, const std::string& peer, const std::string& node) {
    if (table.size() >= limits::control_sessions_max) {
      auto oldest = std::ranges::min_element(table, {}, [](const auto& item) { return item.second.last_used; });
      table.erase(oldest);
    }
    table[peer] = {node, ++uses_};
  }

  // constant
  const control_server_options options_;
  // server thread
  wire::socket control_;
  wire::socket admin_;
  std::map<std::string, session> sessions_;
  std::map<std::string, session> admins_;
  std::uint64_t uses_{};
  // any thread
  const wire::wake_signal wake_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> refused_{0};
  // guarded by mutex_
  std::mutex mutex_;
  std::deque<outgoing> queue_;

  std::thread thread_;
};

result<std::unique_ptr<control_server>> control_server::bind(std::shared_ptr<wire::context> ctx,
                                                             control_server_options options) {
  auto control = wire::socket::open(ctx, wire::socket_kind::router, options.control_socket);
  if (!control) return fail(control.error());
  if (auto bound = control->bind(options.control_address); !bound) return fail(bound.error());
  auto admin = wire::socket::open(std::move(ctx), wire::socket_kind::router, options.admin_socket);
  if (!admin) return fail(admin.error());
  if (auto bound = admin->bind(options.admin_address); !bound) return fail(bound.error());
  auto wake = wire::wake_signal::make();
  if (!wake) return fail(wake.error());
  auto l = std::make_unique<loop>(std::move(options), std::move(*control), std::move(*admin), std::move(*wake));
  return std::unique_ptr<control_server>(new control_server(std::move(l)));
}

control_server::control_server(std::unique_ptr<loop> l) : loop_(std::move(l)) {}
void control_server::start() { loop_->start(); }
control_server::~control_server() { loop_->stop(); }

void control_server::send(const node_message& message) {
  auto proto = std::make_shared<proto::CoordinatorToNode>();
  to_proto(message, *proto);
  loop_->enqueue(false, message.peer, std::move(proto));
}

void control_server::publish(const publication& what) {
  auto proto = std::make_shared<proto::CoordinatorToNode>();
  to_proto(*what.map, *proto->mutable_map());
  for (const auto& to : what.to) loop_->enqueue(false, to.peer, proto);
}

void control_server::reply(const admin_reply& answer) {
  auto proto = std::make_shared<proto::AdminReply>();
  proto->set_command_id(answer.command_id);
  if (answer.outcome) {
    proto->set_json(to_json(*answer.outcome));
  } else {
    to_proto(answer.outcome.error(), *proto->mutable_error());
  }
  loop_->enqueue(true, answer.peer, std::move(proto));
}

void control_server::answer(const query_origin& to, const result<std::string>& json) {
  if (to.from_admin) {
    auto proto = std::make_shared<proto::AdminReply>();
    proto->set_command_id(to.command_id);
    json ? proto->set_json(*json) : to_proto(json.error(), *proto->mutable_error());
    return loop_->enqueue(true, to.peer, std::move(proto));
  }
  auto proto = std::make_shared<proto::CoordinatorToNode>();
  auto& reply = *proto->mutable_query_reply();
  reply.set_query_id(to.query_id);
  json ? reply.set_json(*json) : to_proto(json.error(), *reply.mutable_error());
  loop_->enqueue(false, to.peer, std::move(proto));
}

std::uint64_t control_server::refused_messages() const { return loop_->refused(); }

}  // namespace troupe::coordinator
