// The whole coordinator in this process: real sockets, a real store, a node's link against it, an operator beside it.
#include "coordinator/shell/daemon.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <map>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/daemon/data_folder.hpp"
#include "common/limits.hpp"
#include "common/node/coordinator_link.hpp"
#include "common/wire/framing.hpp"
#include "common/wire/socket.hpp"
#include "model/checkpoint.hpp"
#include "proto/admin.pb.h"
#include "proto/node_coordinator.pb.h"

namespace troupe::coordinator {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::HasSubstr;

const fs::path golden = fs::path(TROUPE_SOURCE_DIR) / "tests/golden/dev/mixtral";
constexpr auto patience = 20s;  // no test waits as long as this unless it fails

// An expert node without weights: obeys every order at once, and reports.
class obedient_node {
 public:
  obedient_node(std::shared_ptr<wire::context> ctx, const std::string& control, const std::string& name,
                std::string cluster_id = "") {
    node::coordinator_link_options options;
    options.control_address = control;
    options.cluster_id = std::move(cluster_id);
    options.incarnation = {1};
    options.self.name = {name};
    options.self.data_address = "ipc:///" + name + ".data.ipc";
    options.self.machine_id = "this";
    options.self.dtype = "f32";
    options.self.slots_total = 64;
    options.self.slot_bytes = 1000;
    node::coordinator_link_handlers handlers;
    handlers.on_load = [this](const proto::LoadExpert& load) {
      proto::SlotReport slot;
      slot.set_slot(load.slot());
      slot.set_layer(load.layer());
      slot.set_expert(load.expert());
      slot.set_version(load.version());
      slot.set_state(proto::READY);
      slot.set_digest(std::string(32, static_cast<char>(load.expert() + 1)));
      slot.set_resident_bytes(900);
      change([&] { slots_[load.slot()] = slot; });
    };
    handlers.on_free = [this](const proto::FreeSlot& order) { change([&] { slots_.erase(order.slot()); }); };
    handlers.on_inventory_request = [this] { change([] {}); };
    handlers.on_map = [this](std::shared_ptr<const cluster_map> map) {
      std::lock_guard lock(mutex_);
      map_ = std::move(map);
      changed_.notify_all();
    };
    handlers.on_refused = [this](const error& why, bool) {
      std::lock_guard lock(mutex_);
      refused_ = why;
      changed_.notify_all();
    };
    auto started = node::coordinator_link::start(std::move(ctx), options, handlers);
    EXPECT_TRUE(started) << started.error().message;
    std::lock_guard lock(mutex_);
    link_ = std::move(*started);
  }
  ~obedient_node() { link_->stop(node::coordinator_link::farewell::none); }

  // The newest map once it names every expert; nullptr when that takes too long.
  std::shared_ptr<const cluster_map> full_map() {
    std::unique_lock lock(mutex_);
    bool full = changed_.wait_for(lock, patience, [this] {
      return map_ && !map_->experts.empty() &&
             std::ranges::none_of(map_->experts, [](const auto& e) { return e.replicas.empty(); });
    });
    return full ? map_ : nullptr;
  }
  std::optional<error> refusal() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [this] { return refused_.has_value(); });
    return refused_;
  }

 private:
  template <class Change>
  void change(Change what) {
    proto::Inventory inventory;
    {
      std::lock_guard lock(mutex_);
      what();
      for (const auto& [slot, report] : slots_) *inventory.add_slots() = report;
      if (!link_) return;
    }
    link_->report_inventory(inventory);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint32_t, proto::SlotReport> slots_;
  std::shared_ptr<const cluster_map> map_;
  std::optional<error> refused_;
  std::unique_ptr<node::coordinator_link> link_;
};

class admin {
 public:
  admin(std::shared_ptr<wire::context> ctx, const std::string& address)
      : socket_(*wire::socket::open(std::move(ctx), wire::socket_kind::dealer)) {
    EXPECT_TRUE(socket_.connect(address));
  }
  result<json> ask(proto::QueryKind kind) {
    proto::AdminRequest request;
    request.mutable_query()->set_kind(kind);
    return exchange(request);
  }
  void greet() {
    proto::AdminRequest request;
    request.mutable_hello()->set_wire_major(limits::wire_version_major);
    EXPECT_TRUE(exchange(request));
  }
  result<json> exchange(proto::AdminRequest request) {
    request.set_command_id(fmt::format("id-{}", ++last_));
    auto deadline = std::chrono::steady_clock::now() + patience;
    wire::poller waiting;
    waiting.add(socket_);
    while (!wire::outgoing_message().send(socket_, request)) {
      if (std::chrono::steady_clock::now() > deadline) return fail(errc::timeout, "cannot send");
      waiting.wait(5ms);  // until the connection stands
    }
    while (std::chrono::steady_clock::now() < deadline) {
      waiting.wait(100ms);
      while (auto got = wire::receive(socket_)) {
        proto::AdminReply reply;
        if (!got->message || !got->message->parse(reply) || reply.command_id() != request.command_id()) continue;
        if (reply.has_error()) return fail(static_cast<errc>(reply.error().code()), reply.error().message());
        return json::parse(reply.json().empty() ? "{}" : reply.json());
      }
    }
    return fail(errc::timeout, "no answer");
  }

 private:
  wire::socket socket_;
  int last_{};
};

class daemon_test : public ::testing::Test {
 protected:
  daemon_test() {
    auto pattern = (fs::temp_directory_path() / "troupe-c-XXXXXX").string();
    folder = ::mkdtemp(pattern.data());
    settings.data_dir = folder;
    settings.run_dir = folder / "run";
    settings.model = golden;
    ctx = *wire::context::make();
  }
  ~daemon_test() override { fs::remove_all(folder); }

  std::unique_ptr<daemon_process> start() {
    auto started = daemon_process::start(settings);
    EXPECT_TRUE(started) << started.error().message;
    return started ? std::move(*started) : nullptr;
  }
  [[nodiscard]] std::string control() const { return "ipc://" + (folder / "run/coordinator.control.ipc").string(); }
  [[nodiscard]] std::string admin_address() const { return "ipc://" + (folder / "run/coordinator.admin.ipc").string(); }

  fs::path folder;
  daemon_settings settings;
  std::shared_ptr<wire::context> ctx;
};

TEST_F(daemon_test, places_a_checkpoint_and_finds_it_again_after_a_restart) {
  auto process = start();
  auto node = std::make_unique<obedient_node>(ctx, control(), "expert-0");
  auto before = node->full_map();
  ASSERT_TRUE(before) << "the placement took too long";
  EXPECT_EQ(before->term.value, 1U);
  {
    admin person(ctx, admin_address());
    EXPECT_EQ(person.ask(proto::QUERY_STATUS).error().code, errc::handshake_required);
    person.greet();
    auto status = person.ask(proto::QUERY_STATUS);
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ((*status)["cluster_id"], process->cluster_id());
    EXPECT_EQ((*status)["model"]["family"], "mixtral");
    auto nodes = person.ask(proto::QUERY_NODES);
    ASSERT_TRUE(nodes);
    EXPECT_EQ((*nodes)["items"].size(), 2U);
  }
  auto cluster = process->cluster_id();
  process.reset();
  process = start();
  EXPECT_EQ(process->cluster_id(), cluster);
  auto deadline = std::chrono::steady_clock::now() + patience;
  auto after = node->full_map();
  while (after && after->term.value == 1 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
    after = node->full_map();
  }
  ASSERT_TRUE(after);
  EXPECT_EQ(after->term.value, 2U);
  EXPECT_EQ(after->epoch, before->epoch);
  EXPECT_EQ(after->experts, before->experts);
}

TEST_F(daemon_test, D8_a_second_coordinator_on_the_same_folder_is_refused_with_the_pid) {
  auto process = start();
  auto second = daemon_process::start(settings);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::conflict);
  EXPECT_THAT(second.error().message, HasSubstr(fmt::format("pid {}", ::getpid())));
}

TEST_F(daemon_test, N12_an_address_in_use_is_named) {
  auto process = start();
  auto other = settings;
  other.data_dir = folder / "other";
  auto second = daemon_process::start(other);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, errc::conflict);
  EXPECT_THAT(second.error().message, HasSubstr("coordinator.control.ipc"));
}

TEST_F(daemon_test, P11_a_node_of_another_cluster_is_refused) {
  auto process = start();
  obedient_node stranger(ctx, control(), "expert-0", "another-cluster");
  auto why = stranger.refusal();
  ASSERT_TRUE(why);
  EXPECT_EQ(why->code, errc::wrong_cluster);
  EXPECT_THAT(why->message, HasSubstr("another-cluster"));
}

TEST_F(daemon_test, W1_random_bytes_do_no_harm) {
  auto process = start();
  for (const auto& address : {control(), admin_address()}) {
    auto noise = wire::socket::open(ctx, wire::socket_kind::dealer);
    ASSERT_TRUE(noise->connect(address));
    wire::poller waiting;
    waiting.add(*noise);
    for (int i = 0; i < 50; ++i) {
      auto part = wire::frame::copy_of(std::string(static_cast<std::size_t>(i * 7), static_cast<char>(i * 31)));
      zmq_msg_send(part.handle(), noise->handle(), i % 3 == 0 ? ZMQ_SNDMORE : 0);
    }
    auto last = wire::frame::copy_of(std::string_view("end"));
    zmq_msg_send(last.handle(), noise->handle(), 0);
    waiting.wait(200ms);
  }
  admin person(ctx, admin_address());
  person.greet();
  EXPECT_TRUE(person.ask(proto::QUERY_STATUS));
}

}  // namespace
}  // namespace troupe::coordinator
