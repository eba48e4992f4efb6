#include "router_node/shell/router.hpp"

#include <atomic>
#include <mutex>
#include <random>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>

#include "common/daemon/actors.hpp"
#include "common/daemon/process.hpp"
#include "common/http/api_keys.hpp"
#include "common/http/errors.hpp"
#include "common/http/probes.hpp"
#include "common/http/server.hpp"
#include "common/limits.hpp"
#include "common/node/coordinator_link.hpp"
#include "common/node/link_metrics.hpp"
#include "common/wire/address.hpp"
#include "common/wire/shared_memory.hpp"
#include "model/checkpoint.hpp"
#include "proto/node_coordinator.pb.h"
#include "router_node/core/input_reservoir.hpp"
#include "router_node/shell/generation_metrics.hpp"
#include "router_node/shell/layer_engine.hpp"
#include "router_node/shell/load_recorder.hpp"
#include "router_node/shell/loop_actor.hpp"
#include "router_node/shell/openai_request.hpp"
#include "router_node/shell/router_loop.hpp"
#include "router_node/shell/router_metrics.hpp"
#include "router_node/shell/router_security.hpp"
#include "router_node/shell/stats_message.hpp"
#include "router_node/shell/text_service.hpp"
#include "router_node/shell/text_source.hpp"

namespace troupe::router {
namespace {

using std::chrono::milliseconds;
using namespace std::chrono_literals;

// Larger than that of every earlier process of this router, as long as the clock does not go back between them.
incarnation_number incarnation_from_clock() {
  return {static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() / 1us)};
}

caf::actor_system_config& quiet(caf::actor_system_config& config) {
  // The actors have threads of their own; the scheduler needs one for CAF's own helpers.
  daemon::use_one_sleeping_worker(config);
  return config;
}

}  // namespace

result<void> validate(const router_options& options) {
  if (!is_valid_node_name(options.name.value)) {
    return fail(errc::invalid_request, fmt::format("--name {}: use a-z, 0-9, '-' and '.'", options.name.value));
  }
  if (options.model.empty()) return fail(errc::invalid_request, "--model: name the folder of the checkpoint");
  if (options.threads == 0) return fail(errc::invalid_request, "--threads 0: use at least one");
  if (options.record_seconds == 0) {
    return fail(errc::invalid_request, "--record-trace-seconds 0: a step lasts at least one second");
  }
  if (options.cold_reservoir_rows > limits::cold_reservoir_rows_max) {
    return fail(errc::invalid_request, fmt::format("--cold-reservoir-rows {}: at most {}", options.cold_reservoir_rows,
                                                   limits::cold_reservoir_rows_max));
  }
  if (!(options.explore_bias >= 0 && options.explore_bias <= limits::explore_bias_max)) {
    return fail(errc::invalid_request,
                fmt::format("--explore-bias {}: from 0 to {}", options.explore_bias, limits::explore_bias_max));
  }
  if (options.explore_bias > 0 && options.groups.groups != 0) {
    return fail(errc::conflict, "--explore-bias and --route-groups: one approximation at a time; leave one out");
  }
  return {};
}

// In a folder each run gets a file of its own, so that a router that is started again mixes no steps.
std::filesystem::path trace_file(const router_options& options) {
  if (!std::filesystem::is_directory(options.record_trace)) return options.record_trace;
  const auto now = std::chrono::floor<std::chrono::milliseconds>(std::chrono::system_clock::now());
  return options.record_trace / fmt::format("{}.{}.csv", options.name.value, now.time_since_epoch().count());
}

class router::impl {
 public:
  impl(router_options options, std::function<void(std::string)> on_failure)
      : options_(std::move(options)), on_failure_(std::move(on_failure)) {}
  ~impl() { stop(0ms); }

  [[nodiscard]] result<void> start();
  void stop(milliseconds grace);
  [[nodiscard]] std::string describe() const;

  std::vector<std::string> client_addresses;
  std::string http_address;

 private:
  [[nodiscard]] result<void> open_model();
  [[nodiscard]] result<void> open_texts();
  [[nodiscard]] result<std::vector<wire::socket>> bind_clients();
  [[nodiscard]] result<void> start_loop();
  [[nodiscard]] result<void> start_http();
  [[nodiscard]] result<std::vector<http::route>> client_routes();
  [[nodiscard]] std::vector<http::route> text_refusals() const;
  [[nodiscard]] http::route cluster_route();
  [[nodiscard]] result<void> start_link();
  [[nodiscard]] node::coordinator_link_handlers link_handlers();
  void report_stats();
  [[nodiscard]] result<void> ask_coordinator(std::uint64_t query_id, info_kind kind, const std::string& layer);
  [[nodiscard]] std::vector<http::check> readiness();
  [[nodiscard]] std::string cluster_id();
  void fail_once(std::string reason);
  void wait_for(caf::actor& actor);

  const router_options options_;
  const std::function<void(std::string)> on_failure_;
  std::atomic<bool> failed_{};
  bool stopped_{};

  std::shared_ptr<wire::context> context_;
  router_security security_;
  std::unique_ptr<model::checkpoint> checkpoint_;
  dtype type_{dtype::f32};
  model_plan plan_;
  std::unique_ptr<layer_engine> engine_;
  std::unique_ptr<router_metrics> metrics_;
  std::unique_ptr<text_service> texts_;         // nullptr: layers only
  error no_texts_;                              // why
  std::unique_ptr<load_recorder> recorder_;     // none: loads are not written down
  std::unique_ptr<input_reservoir> reservoir_;  // none: no inputs of cold experts are kept
  http::metrics_registry registry_;
  router_identity identity_;
  link_environment links_;
  std::shared_ptr<router_loop> loop_;
  caf::actor_system_config actor_config_;
  std::unique_ptr<caf::actor_system> actors_;
  caf::actor actor_, text_actor_;
  std::unique_ptr<http::server> http_;
  std::mutex link_mutex_;  // guards link_, which comes last and goes first
  std::unique_ptr<node::coordinator_link> link_;
  incarnation_number incarnation_{incarnation_from_clock()};
};

// -- start --------------------------------------------------------------------------------------------------------

result<void> router::impl::start() {
  wire::remove_stale_segments();
  auto context = wire::context::make();
  if (!context) return fail(context.error());
  context_ = std::move(*context);
  if (auto opened = open_model(); !opened) return opened;
  if (auto started = start_loop(); !started) return started;
  if (auto started = start_http(); !started) return started;
  return start_link();
}

result<void> router::impl::open_model() {
  auto checkpoint = model::checkpoint::open(options_.model);
  if (!checkpoint) return fail(checkpoint.error());
  checkpoint_ = std::make_unique<model::checkpoint>(std::move(*checkpoint));
  auto type = resolve_dtype(options_.type, checkpoint_->model().stored);
  if (!type) return fail(type.error());
  type_ = *type;
  auto engine = layer_engine::make(*checkpoint_, type_, options_.threads, options_.groups);
  if (!engine) return fail(engine.error());
  plan_ = model_plan::make(checkpoint_->model(), type_, options_.groups);
  engine_ = std::move(*engine);
  metrics_ = std::make_unique<router_metrics>(plan_);
  if (!options_.record_trace.empty()) {
    auto recorder = load_recorder::open(
        {.file = trace_file(options_), .window = std::chrono::seconds{options_.record_seconds}}, plan_);
    if (!recorder) return fail(recorder.error());
    recorder_ = std::move(*recorder);
  }
  if (options_.cold_reservoir_rows > 0) {
    reservoir_ = std::make_unique<input_reservoir>(options_.cold_reservoir_rows, limits::cold_reservoir_bytes_max,
                                                   std::mt19937_64{std::random_device{}()});
  }
  if (options_.explore_bias == 0) return open_texts();
  for (const auto& layer : checkpoint_->model().layers) {
    if (auto may = model::check_exploration(layer.gate); !may) return may;
  }
  return open_texts();
}

result<void> router::impl::open_texts() {
  auto texts = text_service::open(*checkpoint_, plan_,
                                  {.model = options_.model,
                                   .type = type_,
                                   .threads = options_.threads,
                                   .kv_bytes = options_.kv_bytes,
                                   .pins = options_.pins});
  if (texts) {
    texts_ = std::move(*texts);
    return {};
  }
  if (texts.error().code != errc::invalid_request) return fail(texts.error());
  spdlog::warn("layers only, no texts: {}", texts.error().message);
  no_texts_ = {errc::invalid_request,
               "this router gives no texts: " + texts.error().message.substr(0, texts.error().message.find('\n'))};
  return {};
}

result<std::vector<wire::socket>> router::impl::bind_clients() {
  auto addresses = options_.listen;
  if (addresses.empty()) {
    addresses.push_back(fmt::format("ipc://{}", (options_.run_dir / (options_.name.value + ".client.ipc")).string()));
  }
  const bool has_tcp = std::ranges::any_of(addresses, [](const auto& a) { return wire::needs_curve(a); });
  auto security = router_security::open(context_, options_.data_dir, options_.name, has_tcp);
  if (!security) return fail(security.error());
  security_ = std::move(*security);
  std::vector<wire::socket> sockets;
  for (const auto& address : addresses) {
    auto socket = wire::socket::open(context_, wire::socket_kind::router, security_.for_clients(address));
    if (!socket) return fail(socket.error());
    auto bound = socket->bind(address);
    if (!bound) return fail(bound.error());
    client_addresses.push_back(std::move(*bound));
    sockets.push_back(std::move(*socket));
  }
  return sockets;
}

result<void> router::impl::start_loop() {
  auto sockets = bind_clients();
  if (!sockets) return fail(sockets.error());
  auto wake = wire::wake_signal::make();
  if (!wake) return fail(wake.error());
  identity_ = {.name = options_.name,
               .incarnation =
                   [this] {
                     std::lock_guard lock(link_mutex_);
                     return link_ ? link_->incarnation() : incarnation_;
                   },
               .cluster_id = [this] { return cluster_id(); },
               .model = &checkpoint_->model(),
               .type = type_};
  links_ = {.context = context_,
            .self = options_.name,
            .incarnation = identity_.incarnation,
            .cluster_id = identity_.cluster_id,
            .keys = security_.keys(),
            .segment_bytes = limits::link_segment_bytes};
  loop_settings settings{
      .plan = &plan_,
      .engine = engine_.get(),
      .self = &identity_,
      .links = &links_,
      .metrics = metrics_.get(),
      .recorder = recorder_.get(),
      .reservoir = reservoir_.get(),
      .explore_bias = static_cast<float>(options_.explore_bias),
      .ask_coordinator = [this](std::uint64_t id, info_kind kind,
                                const std::string& layer) { return ask_coordinator(id, kind, layer); },
      .acknowledge =
          [this](term_number term, epoch_number epoch, epoch_number uses_since) {
            std::lock_guard lock(link_mutex_);
            if (link_) link_->acknowledge(term, epoch, uses_since);
          },
      .model_changed =
          [this](model_change change) {
            if (texts_) texts_->change_model(std::move(change));
          },
      .report = [this] { report_stats(); },
      .seed = std::random_device{}()};
  if (texts_ && options_.pins) settings.uses_since = [this] { return texts_->uses_since(); };
  loop_ = std::make_shared<router_loop>(std::move(settings), std::move(*sockets), std::move(*wake));
  actors_ = std::make_unique<caf::actor_system>(quiet(actor_config_));
  const auto on_failure = [this](std::string reason) { fail_once(std::move(reason)); };
  actor_ = spawn_loop(
      *actors_, "router", [loop = loop_] { loop->run(); }, on_failure);
  if (texts_) {
    text_actor_ = spawn_loop(
        *actors_, "generation", [this] { texts_->run(*loop_); }, on_failure);
    loop_->use_text(texts_->source());
  } else {
    loop_->use_text(fail(no_texts_));
  }
  return {};
}

result<void> router::impl::start_http() {
  registry_.add([this](std::vector<http::metric_family>& families) {
    metrics_->collect(families, texts_ ? texts_->load() : text_load{});
  });
  if (texts_) registry_.add([this](std::vector<http::metric_family>& families) { texts_->collect(families); });
  registry_.add([this](std::vector<http::metric_family>& families) {
    std::vector<std::pair<std::string, double>> mailboxes{{"router", static_cast<double>(loop_->waiting())}};
    if (texts_) mailboxes.emplace_back("generation", static_cast<double>(texts_->waiting()));
    families.push_back(http::mailbox_family(mailboxes));
    std::lock_guard lock(link_mutex_);
    node::append_link_metrics(link_.get(), families);
  });
  registry_.add(http::handshake_metrics([this] { return security_.refusals(); }));
  registry_.add(http::process_metrics());
  registry_.add(http::build_metrics(options_.version, options_.commit, "cpu"));
  if (options_.http.empty()) return {};
  auto routes = http::probe_routes({.build = {options_.version, options_.commit, "cpu"},
                                    .ready = [this] { return readiness(); },
                                    .metrics = &registry_});
  auto open_to_clients = client_routes();
  if (!open_to_clients) return fail(open_to_clients.error());
  for (auto& route : *open_to_clients) routes.push_back(std::move(route));
  auto started = http::server::start({.address = options_.http, .name = limits::software}, std::move(routes));
  if (!started) return fail(started.error());
  http_ = std::move(*started);
  http_address = http_->address();
  return {};
}

// The text endpoints of a router that has none.
std::vector<http::route> router::impl::text_refusals() const {
  std::vector<http::route> routes;
  for (const char* path : {"/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"}) {
    routes.push_back({"POST", path, limits::http_json_body_bytes_max,
                      [this](const http::request&, const std::shared_ptr<http::exchange>& exchange) {
                        exchange->reply(http::to_response(no_texts_));
                      }});
  }
  return routes;
}

// GET /cluster: troupe status -o json, for who has no keys of the cluster.
http::route router::impl::cluster_route() {
  return {"GET", "/cluster", 0, [this](const http::request&, const std::shared_ptr<http::exchange>& exchange) {
            const auto asked = loop_->ask(info_kind::status, [exchange](result<std::string> json) {
              exchange->reply(json ? http::response{.body = std::move(*json)} : http::to_response(json.error()));
            });
            if (!asked) exchange->reply(http::to_response(asked.error()));
          }};
}

// What needs an API key where there are any: everything but the probes and metrics.
result<std::vector<http::route>> router::impl::client_routes() {
  if (auto safe = http::check_exposure(options_.http, !options_.api_keys.empty(), options_.no_auth); !safe) {
    return fail(safe.error());
  }
  auto routes =
      layer_routes(plan_, checkpoint_->model(), *loop_, texts_ ? texts_->model().limits.context_tokens : 0,
                   options_.groups, options_.explore_bias, [loop = loop_] { return loop->health().masked.load(); });
  routes.push_back(cluster_route());
  const auto count = [this](text_outcome outcome) { metrics_->on_text(outcome); };
  for (auto& route : texts_ ? texts_->routes(count) : text_refusals()) routes.push_back(std::move(route));
  if (options_.api_keys.empty()) return routes;
  auto keys = http::api_keys::open(options_.api_keys);
  if (!keys) return fail(keys.error());
  return http::guard(
      std::move(routes), std::make_shared<const http::api_keys>(std::move(*keys)),
      [](const std::string& client) { spdlog::warn("a request of {} without a valid API key", client); });
}

result<void> router::impl::start_link() {
  node::coordinator_link_options link;
  link.control_address = options_.coordinator.empty()
                             ? fmt::format("ipc://{}", (options_.run_dir / "coordinator.control.ipc").string())
                             : options_.coordinator;
  auto keys = security_.to_coordinator(link.control_address);
  if (!keys) return fail(keys.error());
  link.keys = std::move(*keys);
  link.incarnation = incarnation_;
  link.self.name = options_.name;
  link.self.role = node_role::router;
  link.self.data_address = client_addresses.front();
  link.self.http_address = http_address;
  link.self.public_key = security_.public_key();
  link.self.machine_id = wire::machine_id();
  link.self.device = "cpu";
  link.self.dtype = type_ == dtype::bf16 ? "bf16" : "f32";
  link.self.model_fingerprint = checkpoint_->model().fingerprint;
  // The first map may come before start() returns: the loop waits here until there is a link to acknowledge it by.
  std::lock_guard lock(link_mutex_);
  auto started = node::coordinator_link::start(context_, std::move(link), link_handlers());
  if (!started) return fail(started.error());
  link_ = std::move(*started);
  return {};
}

// So that the coordinator knows what the experts that are not there would be good for, how much goes on, and which cold
// experts this router knows of.
void router::impl::report_stats() {
  proto::NodeStats stats;
  put_stats(*metrics_, stats);
  if (reservoir_ || options_.explore_bias > 0) stats.set_cold_fingerprint(loop_->health().cold_fingerprint);
  stats.set_batches_total(loop_->health().batches);
  stats.set_resident_set_bytes(daemon::resident_set_bytes());
  std::lock_guard lock(link_mutex_);
  if (link_) (void)link_->send_stats(stats);  // totals: the next report says it again
}

node::coordinator_link_handlers router::impl::link_handlers() {
  node::coordinator_link_handlers handlers;
  handlers.on_map = [this](std::shared_ptr<const cluster_map> map) { loop_->use_map(std::move(map)); };
  handlers.on_cold = [this](const proto::ColdExperts& news) {
    std::vector<expert_id> cold;
    for (const auto& expert : news.experts()) cold.push_back({{expert.layer()}, expert.expert()});
    loop_->use_cold(news.fingerprint(), std::move(cold));
  };
  handlers.on_query_reply = [this](std::uint64_t id, result<std::string> json) {
    loop_->on_coordinator_reply(id, std::move(json));
  };
  handlers.on_coordinator_state = [](const node::coordinator_state& state) {
    spdlog::info("coordinator {}", state.connected ? "connected" : "lost");
  };
  handlers.on_refused = [this](const error& reason, bool permanent) {
    spdlog::error("the coordinator refuses this router: {}", reason.message);
    if (permanent) fail_once(reason.message);
  };
  handlers.on_bad_message = [](const error& reason) { spdlog::warn("coordinator: {}", reason.message); };
  return handlers;
}

// -- what the parts ask -------------------------------------------------------------------------------------------

result<void> router::impl::ask_coordinator(std::uint64_t query_id, info_kind kind, const std::string& layer) {
  proto::NodeQuery query;
  query.set_query_id(query_id);
  query.set_kind(static_cast<proto::QueryKind>(kind));
  query.set_layer(layer);
  std::lock_guard lock(link_mutex_);
  if (!link_) return fail(errc::unavailable, "the coordinator is not connected yet");
  return link_->send_query(query);
}

std::string router::impl::cluster_id() {
  std::lock_guard lock(link_mutex_);
  return link_ ? link_->cluster_id() : std::string{};
}

std::vector<http::check> router::impl::readiness() {
  const auto& health = loop_->health();
  const auto epoch = health.epoch.load();
  const auto wanted = health.hosts_wanted.load();
  const auto ready = health.hosts_ready.load();
  const auto unroutable = health.unroutable.load();
  bool is_connected = false;
  {
    std::lock_guard lock(link_mutex_);
    is_connected = link_ && link_->state().connected;
  }
  // The data plane outlives the coordinator: without it the router serves on, so that check informs and does not fail.
  const auto check = [](const char* name, bool ok, std::string failing) {
    return http::check{name, ok, ok ? std::string{} : std::move(failing)};
  };
  return {check("router", !failed_, "its thread has ended"),
          check("model", !health.is_other_model, "the cluster serves another checkpoint; check --model"),
          {"map", epoch > 0, epoch > 0 ? fmt::format("epoch {}", epoch) : "no cluster map yet"},
          check("experts", epoch > 0 && unroutable == 0, fmt::format("{} experts have no replica", unroutable)),
          {"hosts", ready > 0, fmt::format("{} of {} expert hosts are connected", ready, wanted)},
          {"coordinator", true, is_connected ? "connected" : "lost, serving on the last map"}};
}

void router::impl::fail_once(std::string reason) {
  if (!failed_.exchange(true)) on_failure_(std::move(reason));
}

// -- stop ---------------------------------------------------------------------------------------------------------

void router::impl::stop(milliseconds grace) {
  if (std::exchange(stopped_, true)) return;
  std::unique_ptr<node::coordinator_link> link;
  {
    std::lock_guard lock(link_mutex_);
    link = std::move(link_);
  }
  if (link) link->stop(node::coordinator_link::farewell::leave);
  link.reset();
  if (loop_) loop_->close_clients();
  // Texts first: they need the loop to ask for experts.
  if (actors_ && text_actor_) {
    texts_->stop(grace);
    wait_for(text_actor_);
  }
  if (loop_) loop_->stop(grace);
  if (actors_ && actor_) wait_for(actor_);
  if (http_) http_->stop(grace);
  http_.reset();
  loop_.reset();
  actors_.reset();
}

void router::impl::wait_for(caf::actor& actor) {
  caf::scoped_actor self(*actors_);
  self->wait_for(actor);
  actor = nullptr;
}

std::string router::impl::describe() const {
  return fmt::format("{} serves {} MoE layers{} of {} ({}, {}) to clients at {}{}", options_.name.value,
                     plan_.layers().size(), texts_ ? " and " + texts_->describe() : std::string{},
                     checkpoint_->model().name, checkpoint_->model().family, to_string(type_),
                     fmt::join(client_addresses, ", "), http_address.empty() ? "" : ", HTTP at " + http_address);
}

// -----------------------------------------------------------------------------------------------------------------

router::router(std::unique_ptr<impl> i) : impl_(std::move(i)) {}
router::~router() = default;

result<std::unique_ptr<router>> router::start(router_options options, std::function<void(std::string)> on_failure) {
  if (auto fine = validate(options); !fine) return fail(fine.error());
  auto made = std::make_unique<impl>(std::move(options), std::move(on_failure));
  if (auto started = made->start(); !started) return fail(started.error());
  return std::unique_ptr<router>(new router(std::move(made)));
}

const std::vector<std::string>& router::client_addresses() const { return impl_->client_addresses; }
const std::string& router::http_address() const { return impl_->http_address; }
std::string router::describe() const { return impl_->describe(); }
void router::stop(milliseconds grace) { impl_->stop(grace); }

}  // namespace troupe::router
