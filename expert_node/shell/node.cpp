#include "expert_node/shell/node.hpp"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>

#include "common/daemon/actors.hpp"
#include "common/daemon/process.hpp"
#include "common/http/probes.hpp"
#include "common/http/server.hpp"
#include "common/node/coordinator_link.hpp"
#include "common/node/link_metrics.hpp"
#include "common/wire/address.hpp"
#include "common/wire/shared_memory.hpp"
#include "compute/gpu_runtime.hpp"
#include "expert_node/shell/arena_plan.hpp"
#include "expert_node/shell/coordinator_messages.hpp"
#include "expert_node/shell/data_server.hpp"
#include "expert_node/shell/expert_host.hpp"
#include "expert_node/shell/gpu_transfer.hpp"
#include "expert_node/shell/layer_catalog.hpp"
#include "expert_node/shell/loader.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "expert_node/shell/node_metrics.hpp"
#include "expert_node/shell/node_ports.hpp"
#include "expert_node/shell/node_security.hpp"
#include "expert_node/shell/peer_server.hpp"
#include "model/checkpoint.hpp"
#include "model/manifest.hpp"
#include "proto/node_coordinator.pb.h"

namespace troupe::expert {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using namespace std::chrono_literals;

// Taking and first touching a large arena may swap; nothing else is waited for longer.
constexpr milliseconds device_start_timeout = 120s;

// Larger than that of every earlier process of this node, as long as the clock does not go back between them.
incarnation_number incarnation_from_clock() {
  return {static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch() / 1us)};
}

result<std::unique_ptr<compute::device>> make_device(const node_options& options, const compute::cpu_options& cpu) {
  switch (options.device) {
    case device_kind::cpu:
      return compute::make_cpu_device(cpu);
    case device_kind::reference:
      return compute::make_reference_device(cpu);
    case device_kind::cuda:
      break;
  }
  auto runtime = compute::open_gpu_runtime(options.plugin.string(), options.device_index);
  if (!runtime) return fail(runtime.error());
  return compute::make_gpu_device(std::move(*runtime), cpu.type);
}

// What the system could give without swapping; 0 when it does not say.
std::uint64_t available_memory_bytes() {
  std::ifstream file{"/proc/meminfo"};
  for (std::string line; std::getline(file, line);) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %llu kB", &kib) == 1) return std::uint64_t{kib} * limits::kib;
  }
  return 0;
}

dtype choose_type(const node_options& options, const model::checkpoint* checkpoint) {
  if (options.type) return *options.type;
  return model::default_compute_type(checkpoint == nullptr ? dtype::bf16 : checkpoint->model().stored);
}

caf::actor_system_config& quiet(caf::actor_system_config& config) {
  // The only actor has a thread of its own; the scheduler needs one for CAF's own helpers.
  daemon::use_one_sleeping_worker(config);
  return config;
}

}  // namespace

result<void> validate(const node_options& options) {
  if (!is_valid_node_name(options.name.value)) {
    return fail(errc::invalid_request, fmt::format("--name {}: use a-z, 0-9, '-' and '.'", options.name.value));
  }
  if (options.threads == 0) return fail(errc::invalid_request, "--threads 0: a device needs at least one");
  if (options.type && *options.type != dtype::f32 && *options.type != dtype::bf16) {
    return fail(errc::invalid_request, fmt::format("--dtype {}: use auto, f32 or bf16", to_string(*options.type)));
  }
  if (!options.model && (!options.slots || !options.memory_bytes)) {
    return fail(errc::invalid_request, "a node without --model needs --slots and --memory");
  }
  return {};
}

class expert_node::impl {
 public:
  impl(node_options options, std::function<void(std::string)> on_failure)
      : options_{std::move(options)}, on_failure_{std::move(on_failure)} {}
  ~impl() { stop(0ms); }

  [[nodiscard]] result<void> start();
  void stop(milliseconds grace);
  [[nodiscard]] std::string describe() const;

  std::string data_address;
  std::string peer_address;
  std::string http_address;

 private:
  [[nodiscard]] result<void> open_checkpoint();
  [[nodiscard]] result<void> open_keys();
  [[nodiscard]] result<void> start_host();
  void start_loader();
  [[nodiscard]] result<void> start_sockets();
  [[nodiscard]] result<void> start_http();
  [[nodiscard]] result<void> start_link();
  [[nodiscard]] node::coordinator_link_handlers link_handlers();
  [[nodiscard]] link_opener opener_of_links() const;
  [[nodiscard]] result<pinned_expert> pin(const slot_content& content);
  [[nodiscard]] result<std::shared_ptr<const model::bundle_layout>> link_for_peer(const link_request& asked);
  [[nodiscard]] result<open_bundle> open_for_peer(const slot_content& content,
                                                  const peer_server_settings::make_room& make_room);
  [[nodiscard]] std::vector<http::check> readiness() const;
  void stop_host();
  void fail_once(std::string reason);
  template <class Message>
  void tell(Message message) {
    caf::anon_send(host_, std::move(message));
  }

  const node_options options_;
  const std::function<void(std::string)> on_failure_;
  std::atomic<bool> failed_{};
  std::atomic<bool> stopping_{};

  std::shared_ptr<wire::context> context_;
  node_security security_;
  std::shared_ptr<node_identity> identity_;
  std::shared_ptr<layer_catalog> layers_;
  std::shared_ptr<const model::checkpoint> checkpoint_;
  std::optional<model::digest_manifest> manifest_;  // of checkpoint_, until the loader has it
  std::unique_ptr<node_metrics> metrics_;
  std::shared_ptr<node_ports> ports_;
  caf::actor_system_config actor_config_;
  std::unique_ptr<caf::actor_system> actors_;
  expert_host_actor host_;
  host_facts facts_;
  std::unique_ptr<loader> loader_;
  std::unique_ptr<data_server> data_;
  std::unique_ptr<gpu_giver> giver_;  // none: this node does not link
  std::unique_ptr<peer_server> peers_;
  http::metrics_registry registry_;
  std::unique_ptr<http::server> http_;
  std::unique_ptr<node::coordinator_link> link_;
  std::atomic<node::coordinator_link*> usable_link_{};  // link_, once it stands
};

// -- start --------------------------------------------------------------------------------------------------------

result<void> expert_node::impl::start() {
  auto made = wire::context::make();
  if (!made) return fail(made.error());
  context_ = std::move(*made);
  wire::remove_stale_segments();
  identity_ = std::make_shared<node_identity>(options_.name, std::string{}, incarnation_from_clock());
  metrics_ = std::make_unique<node_metrics>(options_.name.value);
  ports_ = std::make_shared<node_ports>(*metrics_);
  if (auto done = open_checkpoint(); !done) return done;
  if (auto done = open_keys(); !done) return done;
  if (auto done = start_host(); !done) return done;
  start_loader();
  if (auto done = start_sockets(); !done) return done;
  if (auto done = start_http(); !done) return done;
  return start_link();
}

result<void> expert_node::impl::open_checkpoint() {
  if (options_.model) {
    auto opened = model::checkpoint::open(*options_.model);
    if (!opened) return fail(opened.error());
    auto manifest = model::read_manifest(opened->folder(), opened->model());
    if (!manifest) return fail(manifest.error());
    manifest_ = std::move(*manifest);
    checkpoint_ = std::make_shared<model::checkpoint>(std::move(*opened));
  }
  layers_ = std::make_shared<layer_catalog>(checkpoint_);
  return {};
}

result<void> expert_node::impl::open_keys() {
  const auto ipc = [this](const std::string& file) {
    return fmt::format("ipc://{}/{}.ipc", options_.run_dir.string(), file);
  };
  data_address = options_.listen.empty() ? ipc(options_.name.value + ".data") : options_.listen;
  auto peer = wire::sibling_address(data_address, wire::sibling::peer);
  if (!peer) return fail(peer.error());
  peer_address = std::move(*peer);
  auto opened = node_security::open(context_, options_.data_dir, options_.name,
                                    wire::needs_curve(data_address) || wire::needs_curve(options_.coordinator));
  if (!opened) return fail(opened.error());
  security_ = std::move(*opened);
  return {};
}

result<void> expert_node::impl::start_host() {
  expert_host_settings settings;
  const compute::cpu_options device{choose_type(options_, checkpoint_.get()), options_.threads};
  settings.make_device = [this, device] {
    daemon::take_duty(daemon::thread_duty::computing);  // of the host's thread and the device's
    return make_device(options_, device);
  };
  settings.size_arena = [this](const compute::device& on) {
    const auto available = on.info().free_bytes.value_or(available_memory_bytes());
    return plan_arena({options_.slots, options_.memory_bytes, available},
                      checkpoint_ == nullptr ? nullptr : &checkpoint_->model(), on);
  };
  settings.probe = compute::run_probe;
  settings.ports = ports_;
  const auto mailbox = settings.mailbox;
  registry_.add([mailbox](std::vector<http::metric_family>& families) {
    families.push_back(http::mailbox_family({{expert_host_state::name, mailbox->value()}}));
  });
  if (auto fine = validate(settings); !fine) return fine;
  actors_ = std::make_unique<caf::actor_system>(quiet(actor_config_));
  host_ = spawn_expert_host(*actors_, std::move(settings));
  host_->attach_functor([this](const caf::error& reason) {
    if (reason && !stopping_) fail_once("the expert host ended: " + caf::to_string(reason));
  });
  result<host_facts> started = fail(errc::timeout, "the device did not start in time");
  caf::scoped_actor self{*actors_};
  self->request(host_, device_start_timeout, expert::start_host{})
      .receive([&](const host_started& reply) { started = reply.facts; },
               [&](const caf::error& reason) { started = fail(errc::internal, caf::to_string(reason)); });
  if (!started) return fail(started.error());
  facts_ = std::move(*started);
  return {};
}

void expert_node::impl::start_loader() {
  loader_settings settings;
  settings.layers = layers_;
  settings.memory = facts_.memory;
  settings.type = facts_.device.type;
  settings.slot_bytes = facts_.slot_bytes;
  settings.allow_nonfinite = options_.allow_nonfinite;
  settings.manifest = std::move(manifest_);
  settings.fetching.context = context_;
  settings.fetching.identity = identity_;
  settings.fetching.keys = [this](const peer_source& peer) { return security_.to_peer(peer); };
  settings.open_link = opener_of_links();
  if (settings.open_link) giver_ = std::make_unique<gpu_giver>(settings.open_link, facts_.memory, facts_.device.type);
  settings.loaded = [this](finished_load done) {
    tell(slot_loaded{done.slot, std::move(done.layout), done.facts, std::move(done.sample)});
  };
  settings.failed = [this](slot_index slot, error reason) { tell(load_failed{slot, std::move(reason)}); };
  settings.unloaded = [this](slot_index slot) { tell(slot_unloaded{slot}); };
  loader_ = std::make_unique<loader>(std::move(settings));
  ports_->use(loader_.get());
}

result<void> expert_node::impl::start_sockets() {
  data_server_settings data;
  data.context = context_;
  data.address = data_address;
  data.socket = security_.for_routers(data_address);
  data.identity = identity_;
  data.layers = layers_;
  data.submit = [this](call_handle call) { tell(serve_call{std::move(call)}); };
  data.reject_nonfinite = options_.reject_nonfinite;
  auto served = data_server::start(std::move(data));
  if (!served) return fail(served.error());
  data_ = std::move(*served);
  data_address = data_->address();
  ports_->use(data_.get());

  peer_server_settings peer;
  peer.context = context_;
  peer.address = peer_address;
  peer.socket = security_.for_expert_nodes(peer_address);
  peer.identity = identity_;
  peer.open = [this](const slot_content& content, const auto& make_room) { return open_for_peer(content, make_room); };
  if (giver_) peer.link = [this](const link_request& asked) { return link_for_peer(asked); };
  auto given = peer_server::start(std::move(peer));
  if (!given) return fail(given.error());
  peers_ = std::move(*given);
  peer_address = peers_->address();
  return {};
}

result<void> expert_node::impl::start_http() {
  const http::build_info build{options_.version, options_.commit,
                               options_.device == device_kind::cuda ? "cuda" : "cpu"};
  registry_.add(http::process_metrics());
  registry_.add(http::build_metrics(build.version, build.commit, build.backend));
  registry_.add(http::handshake_metrics([this] { return security_.refusals(); }));
  registry_.add(
      [this](std::vector<http::metric_family>& families) { node::append_link_metrics(usable_link_.load(), families); });
  metrics_->register_with(registry_, {&data_->counters(), &loader_->counters(), &peers_->counters(),
                                      [this] { return identity_->epoch().value; }});
  if (options_.http.empty()) return {};
  auto started = http::server::start({options_.http, options_.name.value},
                                     http::probe_routes({build, [this] { return readiness(); }, &registry_}));
  if (!started) return fail(started.error());
  http_ = std::move(*started);
  http_address = http_->address();
  return {};
}

std::vector<http::check> expert_node::impl::readiness() const {
  auto* link = usable_link_.load();
  const bool joined = link != nullptr && link->state().connected;
  const auto epoch = identity_->epoch();
  // The data plane outlives the coordinator: once there is a map the node serves without it, so that check informs and
  // does not fail.
  const auto failure = ports_->device_failure();
  return {{"device", failure.empty(), failure},
          {"map", epoch.value > 0, epoch.value > 0 ? fmt::format("epoch {}", epoch.value) : "no cluster map yet"},
          {"coordinator", true, joined ? "connected" : "lost, serving on the last map"},
          {"running", !stopping_.load(), stopping_ ? "stopping" : ""}};
}

// -- the coordinator ----------------------------------------------------------------------------------------------

result<void> expert_node::impl::start_link() {
  node::coordinator_link_options link;
  link.control_address = options_.coordinator.empty()
                             ? fmt::format("ipc://{}/coordinator.control.ipc", options_.run_dir.string())
                             : options_.coordinator;
  link.incarnation = identity_->incarnation();
  auto& self = link.self;
  self.name = options_.name;
  self.role = node_role::expert;
  self.data_address = data_address;
  self.peer_address = peer_address;
  self.http_address = http_address;
  self.public_key = wire::needs_curve(data_address) ? security_.public_key() : "";
  self.machine_id = wire::machine_id();
  self.zone = options_.zone;
  self.device = facts_.device.name;
  self.dtype = facts_.device.type == dtype::bf16 ? "bf16" : "f32";
  self.slots_total = facts_.slots;
  self.slot_bytes = facts_.slot_bytes;
  self.model_fingerprint = checkpoint_ == nullptr ? "" : checkpoint_->model().fingerprint;
  auto keys = security_.to_coordinator(link.control_address);
  if (!keys) return fail(keys.error());
  link.keys = std::move(*keys);
  auto started = node::coordinator_link::start(context_, std::move(link), link_handlers());
  if (!started) return fail(started.error());
  link_ = std::move(*started);
  // Handlers may have run before the link was known here: do again what they could not.
  usable_link_ = link_.get();
  ports_->use(link_.get());
  if (auto map = link_->map()) link_->acknowledge(map->term, map->epoch);
  tell(report_inventory{});
  return {};
}

node::coordinator_link_handlers expert_node::impl::link_handlers() {
  node::coordinator_link_handlers handlers;
  handlers.on_map = [this](std::shared_ptr<const cluster_map> map) {
    identity_->set_cluster_id(map->cluster_id);
    identity_->set_epoch(map->epoch);
    if (auto* link = usable_link_.load()) link->acknowledge(map->term, map->epoch);
    data_->use_map(std::move(map));
  };
  handlers.on_load = [this](const proto::LoadExpert& message) {
    auto command = from_proto(message);
    if (!command) return spdlog::warn("order refused: {}", command.error().message);
    tell(std::move(*command));
  };
  handlers.on_free = [this](const proto::FreeSlot& message) { tell(from_proto(message)); };
  handlers.on_inventory_request = [this] { tell(report_inventory{}); };
  handlers.on_coordinator_state = [this](const node::coordinator_state& state) {
    spdlog::info("coordinator {}", state.connected ? "connected" : "not connected; serving goes on");
    if (auto* link = usable_link_.load(); link != nullptr && state.connected) {
      identity_->set_cluster_id(link->cluster_id());
    }
  };
  handlers.on_refused = [this](const error& reason, bool permanent) {
    spdlog::error("the coordinator refuses this node: {}", reason.message);
    if (permanent) fail_once(reason.message);
  };
  handlers.next_incarnation = [this](incarnation_number old) {
    const incarnation_number next{std::max(old.value + 1, incarnation_from_clock().value)};
    spdlog::warn("the coordinator had given this node up; it joins again as incarnation {}", next.value);
    identity_->set_incarnation(next);
    tell(reset_statistics{});
    return next;
  };
  return handlers;
}

link_opener expert_node::impl::opener_of_links() const {
  if (options_.device != device_kind::cuda || options_.link_plugin.empty()) return {};
  return [plugin = options_.link_plugin.string(), index = options_.device_index] {
    return compute::open_gpu_link(plugin, index);
  };
}

result<std::shared_ptr<const model::bundle_layout>> expert_node::impl::link_for_peer(const link_request& asked) {
  auto pinned = pin(asked.content);
  if (!pinned) return fail(pinned.error());
  auto begun =
      giver_->give(asked, *pinned->slot, pinned->layout, [this, slot = *pinned->slot] { tell(unpin_slot{slot}); });
  if (!begun) return fail(begun.error());
  return pinned->layout;
}

result<pinned_expert> expert_node::impl::pin(const slot_content& content) {
  pinned_expert pinned;
  caf::scoped_actor self{*actors_};
  self->request(host_, limits::peer_chunk_timeout, pin_expert{content})
      .receive([&](const pinned_expert& reply) { pinned = reply; }, [](const caf::error&) {});
  if (!pinned.slot) {
    return fail(errc::unknown_expert,
                fmt::format("{} does not hold expert {} version {}; ask another node", options_.name.value,
                            to_string(content.expert), content.version.value));
  }
  return pinned;
}

result<open_bundle> expert_node::impl::open_for_peer(const slot_content& content,
                                                     const peer_server_settings::make_room& make_room) {
  auto held = pin(content);
  if (!held) return fail(held.error());
  const auto& pinned = *held;
  auto buffer = make_room(pinned.layout->bytes());
  result<void> read = buffer ? facts_.memory->export_bundle(*pinned.slot, *pinned.layout, buffer->bytes())
                             : result<void>{fail(buffer.error())};
  tell(unpin_slot{*pinned.slot});
  // Packing into a narrower type loses bits: then only the files have what the digest is about.
  bool is_in_files = content.version.value == 1 && layers_->layout(content.expert) != nullptr;
  if (buffer && !read && is_in_files) {
    read = checkpoint_->read_bundle(*pinned.layout, buffer->bytes());
  }
  if (!read) return fail(read.error());
  return open_bundle{pinned.layout, std::move(*buffer)};
}

// -- stop ---------------------------------------------------------------------------------------------------------

void expert_node::impl::stop(milliseconds grace) {
  if (stopping_.exchange(true)) return;
  if (ports_) ports_->use(static_cast<node::coordinator_link*>(nullptr));
  usable_link_ = nullptr;
  if (link_) link_->stop(node::coordinator_link::farewell::leave);
  if (data_ && !data_->drain(grace)) spdlog::warn("stopping with calls in flight");
  if (peers_) peers_->stop();
  giver_.reset();
  if (loader_) loader_->stop();
  stop_host();
  if (data_) data_->stop();
  if (http_) http_->stop(grace);
  link_.reset();
  http_.reset();
  peers_.reset();
  data_.reset();
  loader_.reset();
  host_ = nullptr;
  actors_.reset();
}

void expert_node::impl::stop_host() {
  if (!host_) return;
  caf::scoped_actor self{*actors_};
  self->request(host_, limits::shutdown_grace, expert::stop_host{})
      .receive([](const host_stopped&) {},
               [](const caf::error&) { spdlog::warn("the expert host did not stop in time"); });
}

void expert_node::impl::fail_once(std::string reason) {
  if (!failed_.exchange(true) && on_failure_) on_failure_(std::move(reason));
}

std::string expert_node::impl::describe() const {
  return fmt::format("{} serves at {}: {} ({}), {} slots of {} bytes", options_.name.value, data_address,
                     facts_.device.name, facts_.device.description, facts_.slots, facts_.slot_bytes);
}

// -----------------------------------------------------------------------------------------------------------------

result<std::unique_ptr<expert_node>> expert_node::start(node_options options,
                                                        std::function<void(std::string)> on_failure) {
  if (auto fine = validate(options); !fine) return fail(fine.error());
  auto parts = std::make_unique<impl>(std::move(options), std::move(on_failure));
  if (auto started = parts->start(); !started) return fail(started.error());
  return std::unique_ptr<expert_node>{new expert_node{std::move(parts)}};
}

expert_node::expert_node(std::unique_ptr<impl> i) : impl_{std::move(i)} {}
expert_node::~expert_node() = default;
const std::string& expert_node::data_address() const { return impl_->data_address; }
const std::string& expert_node::peer_address() const { return impl_->peer_address; }
const std::string& expert_node::http_address() const { return impl_->http_address; }
std::string expert_node::describe() const { return impl_->describe(); }
void expert_node::stop(milliseconds grace) { impl_->stop(grace); }

}  // namespace troupe::expert
