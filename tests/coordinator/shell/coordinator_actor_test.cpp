// The coordinator actor on CAF's deterministic scheduler, between a fake store and fake doors.
#include "coordinator/shell/coordinator_actor.hpp"

#include <gtest/gtest.h>

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <nlohmann/json.hpp>

#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator {
namespace {

using namespace std::chrono_literals;

struct fake_store {
  std::vector<std::vector<store_record>> writes;
  std::optional<error> failure;

  [[nodiscard]] epoch_number newest_epoch() const {
    epoch_number newest;
    for (const auto& write : writes) {
      for (const auto& item : write) {
        if (const auto* row = std::get_if<cluster_record>(&item)) newest = std::max(newest, row->epoch);
      }
    }
    return newest;
  }
};

struct recorded_ports final : coordinator_ports {
  explicit recorded_ports(std::shared_ptr<fake_store> d) : disk(std::move(d)) {}
  void send(node_message message) override { messages.push_back(std::move(message)); }
  void publish(publication what) override {
    EXPECT_LE(what.map->epoch, disk->newest_epoch()) << "published before it was on disk";
    maps.push_back(what.map);
  }
  void reply(admin_reply answer) override { replies.push_back(std::move(answer)); }
  void answer(const query_origin&, result<std::string> json) override { answers.push_back(std::move(json)); }
  void set_members(member_view view) override { members = std::move(view); }
  void log(const operator_event&) override {}

  std::shared_ptr<fake_store> disk;
  std::vector<node_message> messages;
  std::vector<std::shared_ptr<const cluster_map>> maps;
  std::vector<admin_reply> replies;
  std::vector<result<std::string>> answers;
  member_view members;
};

store_actor::behavior_type fake_store_behavior(store_actor::pointer, std::shared_ptr<fake_store> target) {
  return {[target](const write_records& message) {
    if (!target->failure) target->writes.push_back(message.records);
    return records_written{message.ticket, target->failure};
  }};
}

caf::actor_system_config& deterministic(caf::actor_system_config& config) {
  config.set("scheduler.policy", caf::atom("testing"));
  return config;
}

class coordinator_actor_test : public ::testing::Test {
 protected:
  coordinator_actor_test() {
    auto made = cluster_state_machine::create(testing::settings_of(2), {}, now);
    coordinator_settings settings;
    settings.machine = std::make_shared<cluster_state_machine>(std::move(*made));
    settings.store = system.spawn(fake_store_behavior, store);
    settings.ports = ports;
    settings.view = view;
    settings.documents.name = "coordinator";
    settings.now = [this] { return now; };
    EXPECT_TRUE(validate(settings));
    actor = spawn_coordinator_actor(system, std::move(settings));
    scheduler.run();
  }
  ~coordinator_actor_test() override {
    caf::scoped_actor self(system);
    auto reply = self->request(actor, caf::infinite, stop_coordinator{});
    scheduler.run();
    reply.receive([](stopped) {}, [](const caf::error&) { ADD_FAILURE() << "it did not stop"; });
    scheduler.run();
  }

  void tell(event what) {
    caf::anon_send(actor, core_event{std::move(what)});
    scheduler.run();
  }
  void pass_time(std::chrono::milliseconds length) {
    for (auto end = now + length; now < end;) {
      now += 50ms;
      tell(heartbeat{{"expert-0"}, {1}, {}});
      scheduler.advance_time(50ms);
      scheduler.run();
    }
  }
  void join_node() {
    tell(join_request{
        "peer-1", "here", {"expert-0"}, {1}, testing::core_harness::facts_of("expert-0", 1, node_role::expert, 4)});
    tell(inventory_report{{"expert-0"}, {1}, 1, {1}, {}});
    pass_time(200ms);
  }

  time_point now{std::chrono::hours(10)};
  std::shared_ptr<fake_store> store = std::make_shared<fake_store>();
  std::shared_ptr<recorded_ports> ports = std::make_shared<recorded_ports>(store);
  std::shared_ptr<public_view_box> view = std::make_shared<public_view_box>();
  caf::actor_system_config config;
  caf::actor_system system{deterministic(config)};
  caf::scheduler::test_coordinator& scheduler = dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler());
  coordinator_actor actor;
};

TEST_F(coordinator_actor_test, writes_its_term_before_anything_else) {
  ASSERT_FALSE(store->writes.empty());
  EXPECT_EQ(std::get<cluster_record>(store->writes[0][0]).term.value, 1U);
}

TEST_F(coordinator_actor_test, answers_a_join_and_tells_the_heartbeat_thread) {
  join_node();
  ASSERT_FALSE(ports->messages.empty());
  EXPECT_EQ(ports->messages[0].peer, "peer-1");
  EXPECT_FALSE(std::get<join_reply>(ports->messages[0].what).refused);
  ASSERT_EQ(ports->members.members.size(), 1U);
  EXPECT_EQ(ports->members.members[0].first.value, "expert-0");
}

TEST_F(coordinator_actor_test, writes_every_map_before_it_publishes_it) {
  join_node();
  ASSERT_FALSE(ports->maps.empty());
  EXPECT_EQ(ports->maps.back()->epoch, store->newest_epoch());
}

TEST_F(coordinator_actor_test, a_failed_write_publishes_nothing_and_answers_no_space) {
  join_node();
  auto maps = ports->maps.size();
  store->failure = error{errc::no_space, "disk full"};
  tell(admin_command{"cli", "uuid-1", stop_cluster{}});
  ASSERT_EQ(ports->replies.size(), 1U);
  EXPECT_EQ(ports->replies[0].outcome.error().code, errc::no_space);
  EXPECT_EQ(ports->maps.size(), maps);
  store->failure.reset();
  pass_time(2s);
  tell(admin_command{"cli", "uuid-1", stop_cluster{}});
  ASSERT_EQ(ports->replies.size(), 2U);
  EXPECT_TRUE(ports->replies[1].outcome);
}

TEST_F(coordinator_actor_test, answers_questions_with_documents) {
  join_node();
  caf::anon_send(actor, ask{{true, "cli", "id", 0}, question_kind::nodes, "", "", 0});
  caf::anon_send(actor, ask{{true, "cli", "id", 0}, question_kind::events, "", "", 0});
  caf::anon_send(actor, ask{{true, "cli", "id", 0}, question_kind::experts, "77", "", 0});
  scheduler.run();
  ASSERT_EQ(ports->answers.size(), 3U);
  EXPECT_EQ(nlohmann::json::parse(*ports->answers[0])["items"].size(), 2U);
  EXPECT_FALSE(nlohmann::json::parse(*ports->answers[1])["items"].empty());
  EXPECT_EQ(ports->answers[2].error().code, errc::not_found);
}

TEST_F(coordinator_actor_test, renews_the_view_of_other_threads) {
  join_node();
  pass_time(2s);
  auto seen = view->get();
  ASSERT_TRUE(seen->map);
  EXPECT_GT(seen->map->epoch.value, 0U);
  EXPECT_EQ(seen->nodes_by_state.at("serving"), 1U);
}

}  // namespace
}  // namespace troupe::coordinator
