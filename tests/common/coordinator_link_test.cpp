// The node's side of node_coordinator.proto against a coordinator that plays by script.
#include "common/node/coordinator_link.hpp"

#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "common/limits.hpp"
#include "proto/node_coordinator.pb.h"
#include "tests/common/fake_coordinator.hpp"

namespace troupe::node {
namespace {

// What the handlers were called with.
class node_under_test {
 public:
  explicit node_under_test(const wire::temporary_folder& folder, const std::string& cluster_id = "c1",
                           std::uint64_t incarnation = 100) {
    coordinator_link_options options;
    options.control_address = folder.ipc("coordinator.control.ipc");
    options.cluster_id = cluster_id;
    options.incarnation = {incarnation};
    options.self.name = {"expert-0"};
    options.self.data_address = "ipc:///x";
    options.self.slots_total = 4;
    coordinator_link_handlers handlers;
    handlers.on_map = [this](auto map) { note([&] { maps_.push_back(map); }); };
    handlers.on_load = [this](const auto& order) { note([&] { loads_.push_back(order); }); };
    handlers.on_inventory_request = [this] { note([&] { ++inventory_requests_; }); };
    handlers.on_query_reply = [this](auto id, auto json) { note([&] { replies_.emplace(id, json); }); };
    handlers.on_coordinator_state = [this](const auto& state) { note([&] { states_.push_back(state.connected); }); };
    handlers.on_refused = [this](const error& e, bool permanent) {
      note([&] { refusals_.emplace_back(e, permanent); });
    };
    handlers.on_bad_message = [this](const error& e) { note([&] { bad_.push_back(e); }); };
    handlers.next_incarnation = [](incarnation_number old) { return incarnation_number{old.value + 10}; };
    link_ = must(coordinator_link::start(must(wire::context::make()), options, handlers));
  }

  coordinator_link& link() { return *link_; }
  template <class Reader>
  auto read(Reader reader) {
    const std::lock_guard lock(mutex_);
    return reader(*this);
  }
  bool connected_within() {
    return eventually([&] { return link_->state().connected; });
  }

  std::vector<std::shared_ptr<const cluster_map>> maps_;
  std::vector<proto::LoadExpert> loads_;
  int inventory_requests_{};
  std::map<std::uint64_t, result<std::string>> replies_;
  std::vector<bool> states_;
  std::vector<std::pair<error, bool>> refusals_;
  std::vector<error> bad_;

 private:
  template <class Change>
  void note(Change change) {
    const std::lock_guard lock(mutex_);
    change();
  }
  std::mutex mutex_;
  std::unique_ptr<coordinator_link> link_;
};

proto::CoordinatorToNode map_message(std::uint64_t term, std::uint64_t epoch, const std::string& cluster = "c1") {
  proto::CoordinatorToNode message;
  to_proto(cluster_map{{term}, {epoch}, cluster, "f", {}, {}}, *message.mutable_map());
  return message;
}

proto::CoordinatorToNode load_message(std::uint64_t term, std::uint64_t command) {
  proto::CoordinatorToNode message;
  message.mutable_load()->set_term(term);
  message.mutable_load()->set_command(command);
  message.mutable_load()->set_version(1);
  return message;
}

class coordinator_link_test : public testing::Test {
 protected:
  wire::temporary_folder folder_;
};

TEST_F(coordinator_link_test, joins_and_sends_heartbeats_with_the_acknowledged_epoch) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_, "");
  ASSERT_TRUE(node.connected_within());
  EXPECT_EQ(node.link().cluster_id(), "c1");
  const auto joins = coordinator.got(proto::NodeToCoordinator::kJoin);
  ASSERT_EQ(joins.size(), 1U);
  EXPECT_EQ(joins[0].join().incarnation(), 100U);
  EXPECT_EQ(joins[0].join().slots_total(), 4U);
  EXPECT_EQ(coordinator.got(proto::NodeToCoordinator::kHello)[0].hello().wire_major(), limits::wire_version_major);
  coordinator.send(map_message(1, 5));
  ASSERT_TRUE(eventually([&] { return node.link().map() != nullptr; }));
  node.link().acknowledge({1}, {5});
  ASSERT_TRUE(eventually([&] { return !coordinator.got(proto::NodeToCoordinator::kMapAck).empty(); }));
  EXPECT_EQ(coordinator.got(proto::NodeToCoordinator::kMapAck)[0].map_ack().uses_since(), 5U);
  node.link().acknowledge({1}, {5}, epoch_number{3});
  ASSERT_TRUE(eventually([&] { return coordinator.got(proto::NodeToCoordinator::kMapAck).size() == 2; }));
  EXPECT_EQ(coordinator.got(proto::NodeToCoordinator::kMapAck)[1].map_ack().uses_since(), 3U);
  EXPECT_TRUE(eventually([&] {
    const auto beats = coordinator.heartbeats();
    return beats.size() >= 3 && beats.back().epoch() == 5 && beats.back().incarnation() == 100;
  }));
  EXPECT_EQ(node.read([](auto& n) { return n.states_; }), std::vector<bool>{true});
}

TEST_F(coordinator_link_test, takes_only_newer_maps_and_acknowledges_repeated_ones_again) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  coordinator.send(map_message(1, 5));
  coordinator.send(map_message(1, 4));
  coordinator.send(map_message(2, 1));
  coordinator.send(map_message(1, 9));
  coordinator.send(map_message(2, 2, "another"));
  coordinator.send(map_message(2, 3));
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return n.maps_.size() == 3; }); }));
  EXPECT_EQ(node.link().map()->epoch.value, 3U);
  EXPECT_EQ(node.read([](auto& n) { return n.maps_[1]->term.value; }), 2U);
  EXPECT_EQ(node.read([](auto& n) { return n.bad_.back().code; }), errc::wrong_cluster);
  node.link().acknowledge({2}, {3});
  ASSERT_TRUE(eventually([&] { return coordinator.got(proto::NodeToCoordinator::kMapAck).size() == 1; }));
  coordinator.send(map_message(2, 3));
  EXPECT_TRUE(eventually([&] { return coordinator.got(proto::NodeToCoordinator::kMapAck).size() == 2; }));
}

TEST_F(coordinator_link_test, passes_orders_on_once_and_in_rising_order) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  for (const auto& [term, command] : std::vector<std::pair<int, int>>{{1, 3}, {1, 3}, {1, 2}, {2, 1}, {1, 9}, {2, 2}}) {
    coordinator.send(load_message(term, command));
  }
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return n.loads_.size() == 3; }); }));
  EXPECT_EQ(node.read([](auto& n) { return n.loads_[2].command(); }), 2U);
}

TEST_F(coordinator_link_test, keeps_its_incarnation_when_the_coordinator_restarts) {
  auto coordinator = std::make_unique<fake_coordinator>(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  proto::Inventory inventory;
  inventory.add_slots()->set_slot(3);
  node.link().report_inventory(inventory);
  ASSERT_TRUE(eventually([&] { return coordinator->got(proto::NodeToCoordinator::kInventory).size() == 1; }));
  node.link().acknowledge({1}, {7});
  coordinator.reset();
  ASSERT_TRUE(eventually([&] { return !node.link().state().connected; }));
  proto::NodeQuery query;
  const auto refused = node.link().send_query(query);
  EXPECT_EQ(refused.error().code, errc::unavailable);
  EXPECT_NE(refused.error().message.find("coordinator lost since"), std::string::npos);
  const auto before = std::chrono::steady_clock::now();
  script second;
  second.term = 2;
  fake_coordinator restarted(folder_, second);
  ASSERT_TRUE(node.connected_within());
  EXPECT_LT(std::chrono::steady_clock::now() - before, limits::restart_grace);
  EXPECT_EQ(restarted.got(proto::NodeToCoordinator::kJoin)[0].join().incarnation(), 100U);
  // What it holds and which map it works by is told again without being asked.
  ASSERT_TRUE(eventually([&] {
    return !restarted.got(proto::NodeToCoordinator::kInventory).empty() &&
           !restarted.got(proto::NodeToCoordinator::kMapAck).empty();
  }));
  const auto again = restarted.got(proto::NodeToCoordinator::kInventory)[0].inventory();
  EXPECT_EQ(again.slots(0).slot(), 3U);
  EXPECT_EQ(again.term(), 2U);
  EXPECT_GT(again.sequence(), 1U);
  EXPECT_TRUE(eventually([&] { return !restarted.heartbeats().empty(); }));
}

TEST_F(coordinator_link_test, joins_under_a_new_incarnation_after_it_was_declared_lost) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  coordinator.change([](auto& s) { s.lost_incarnation = 100; });
  ASSERT_TRUE(eventually([&] { return node.link().incarnation().value == 110; }));
  ASSERT_TRUE(eventually([&] { return node.link().send_stats({}).has_value(); }));
  EXPECT_TRUE(eventually([&] {
    const auto beats = coordinator.heartbeats();
    const auto stats = coordinator.got(proto::NodeToCoordinator::kStats);
    return beats.back().incarnation() == 110 && !stats.empty() && stats.back().stats().incarnation() == 110;
  }));
}

TEST_F(coordinator_link_test, notices_that_heartbeats_are_not_answered) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  EXPECT_TRUE(eventually([&] { return node.link().heartbeats().round_trip.count() > 0; }));
  const auto missed = node.link().heartbeats().missed;
  coordinator.change([](auto& s) { s.answer_heartbeats = s.answer_hello = false; });
  ASSERT_TRUE(eventually([&] { return !node.link().state().connected; }));
  EXPECT_GE(std::chrono::steady_clock::now() - node.link().state().since, limits::heartbeat_lost_after);
  EXPECT_GE(node.link().heartbeats().missed, missed + 3) << "a second of silence and more";
  coordinator.change([](auto& s) { s.answer_heartbeats = s.answer_hello = true; });
  EXPECT_TRUE(node.connected_within());
}

TEST_F(coordinator_link_test, P11_of_another_cluster_is_refused_for_good_and_says_both_names) {
  script other;
  other.cluster_id = "other";
  fake_coordinator coordinator(folder_, other);
  node_under_test node(folder_, "mine");
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return !n.refusals_.empty(); }); }));
  const auto [reason, permanent] = node.read([](auto& n) { return n.refusals_[0]; });
  EXPECT_TRUE(permanent);
  EXPECT_EQ(reason.code, errc::wrong_cluster);
  EXPECT_NE(reason.message.find("other"), std::string::npos);
  EXPECT_NE(reason.message.find("mine"), std::string::npos);
  EXPECT_EQ(coordinator.joins(), 0U);
}

TEST_F(coordinator_link_test, asks_again_after_a_refusal_that_may_pass) {
  script starting;
  starting.refuse_join.emplace();
  starting.refuse_join->set_code(proto::UNAVAILABLE);
  starting.refuse_join->set_retry_after_ms(60);
  fake_coordinator coordinator(folder_, starting);
  node_under_test node(folder_);
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return n.refusals_.size() >= 2; }); }));
  EXPECT_FALSE(node.read([](auto& n) { return n.refusals_[0].second; }));
  coordinator.change([](auto& s) { s.refuse_join.reset(); });
  EXPECT_TRUE(node.connected_within());
  EXPECT_EQ(node.link().incarnation().value, 100U);
}

TEST_F(coordinator_link_test, ignores_an_older_coordinator) {
  script newer;
  newer.term = 5;
  auto coordinator = std::make_unique<fake_coordinator>(folder_, newer);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  coordinator.reset();
  ASSERT_TRUE(eventually([&] { return !node.link().state().connected; }));
  script old;
  old.term = 4;
  fake_coordinator older(folder_, old);
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return !n.bad_.empty(); }); }));
  EXPECT_EQ(node.read([](auto& n) { return n.bad_.back().code; }), errc::stale_epoch);
  EXPECT_FALSE(node.link().state().connected);
}

TEST_F(coordinator_link_test, W13_drops_answers_that_nobody_waits_for_and_tells_of_them) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  proto::CoordinatorToNode welcome;
  welcome.mutable_welcome()->set_cluster_id("other");
  coordinator.send(welcome);
  proto::CoordinatorToNode refusal;
  refusal.mutable_join_reply()->mutable_error()->set_code(proto::STALE_EPOCH);
  coordinator.send(refusal);
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return n.bad_.size() == 2; }); }));
  EXPECT_TRUE(node.link().state().connected);
  EXPECT_EQ(node.link().incarnation().value, 100U);
  EXPECT_EQ(coordinator.joins(), 1U);
}

TEST_F(coordinator_link_test, carries_queries_and_their_answers) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  proto::NodeQuery query;
  query.set_query_id(7);
  must(node.link().send_query(query));
  ASSERT_TRUE(eventually([&] { return !coordinator.got(proto::NodeToCoordinator::kQuery).empty(); }));
  proto::CoordinatorToNode answer;
  answer.mutable_query_reply()->set_query_id(7);
  answer.mutable_query_reply()->set_json("{}");
  coordinator.send(answer);
  ASSERT_TRUE(eventually([&] { return node.read([](auto& n) { return n.replies_.contains(7); }); }));
  EXPECT_EQ(*node.read([](auto& n) { return n.replies_.at(7); }), "{}");
}

TEST_F(coordinator_link_test, says_goodbye_when_asked_to) {
  fake_coordinator coordinator(folder_);
  node_under_test node(folder_);
  ASSERT_TRUE(node.connected_within());
  node.link().stop(coordinator_link::farewell::leave);
  ASSERT_TRUE(eventually([&] { return !coordinator.got(proto::NodeToCoordinator::kLeave).empty(); }));
  EXPECT_EQ(coordinator.got(proto::NodeToCoordinator::kLeave)[0].leave().incarnation(), 100U);
}

TEST_F(coordinator_link_test, needs_usable_addresses_and_keys_for_tcp) {
  auto ctx = must(wire::context::make());
  coordinator_link_options options;
  options.control_address = "tcp://127.0.0.1:7400";
  EXPECT_EQ(coordinator_link::start(ctx, options, {}).error().code, errc::invalid_request);
  options.control_address = "nonsense";
  EXPECT_EQ(coordinator_link::start(ctx, options, {}).error().code, errc::invalid_request);
}

}  // namespace
}  // namespace troupe::node
