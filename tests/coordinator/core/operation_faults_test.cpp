// A party killed, or the operation cancelled, at each step of a migrate and of a replicate up and down. Each step is
// held exactly: nothing moves on until the test lets it.
#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "coordinator/core/operations.hpp"
#include "tests/coordinator/core/core_harness.hpp"

namespace troupe::coordinator::testing {
namespace {

using operations::step;

constexpr expert_id moved{layer_id::of(0), 0};

enum class change { migrate, replicate_up, replicate_down };
enum class party { coordinator, source, target };

const char* name_of(change what) {
  return what == change::migrate ? "migrate" : what == change::replicate_up ? "replicate up" : "replicate down";
}
const char* name_of(party who) {
  return who == party::coordinator ? "coordinator" : who == party::source ? "source" : "target";
}

// Those that the change goes through: a new replica is copied, an old one is drained, a migrate does both.
std::vector<step> steps_of(change what) {
  std::vector<step> all;
  if (what != change::replicate_down) all = {step::reserve, step::copy, step::publish, step::acknowledge};
  if (what != change::replicate_up) all.insert(all.end(), {step::drain, step::free});
  return all;
}

// Three nodes, a router and three experts, one of which is being changed.
class scene {
 public:
  explicit scene(change what) : h_{std::make_unique<core_harness>(settings())} {
    for (const char* name : {"a", "b", "c"}) h_->add_expert_node(name);
    h_->add_router("r");
    h_->converge();
    if (what == change::replicate_down) {
      EXPECT_TRUE(h_->command(replicate_expert{moved, 2, false}));
      h_->converge();
    }
    before = places();
    if (what == change::migrate) {
      target = before.contains("a") ? "b" : "a";
      EXPECT_TRUE(h_->command(migrate_expert{moved, {target}, std::nullopt, false}));
    } else {
      EXPECT_TRUE(h_->command(replicate_expert{moved, what == change::replicate_up ? 2U : 1U, false}));
    }
    h_->pass(50ms);
    for (const auto& node : h_->state().find(moved)->wanted) {
      const bool is_target = what == change::replicate_down || !before.contains(node.value);
      if (is_target) target = node.value;
    }
    for (const auto& name : before) {
      if (name != target) source = name;
    }
  }

  core_harness& harness() { return *h_; }
  [[nodiscard]] const operation_record& operation() const { return h_->state().operations.rbegin()->second; }
  [[nodiscard]] step at() const { return operations::look(h_->state(), operation()).at; }

  // Where the published map has the expert.
  [[nodiscard]] std::set<std::string> places() const {
    std::set<std::string> names;
    const auto& map = *h_->state().published;
    for (const auto& replica : map.find(moved)->replicas) names.insert(map.nodes[replica.node].name.value);
    return names;
  }
  // Which living nodes hold it, ready to compute.
  [[nodiscard]] std::set<std::string> holders() const {
    std::set<std::string> names;
    for (const auto& [name, held] : h_->held) {
      const bool holds = std::ranges::any_of(
          held, [](const auto& slot) { return slot.expert == moved && slot.state == reported_slot_state::ready; });
      if (holds && h_->beating.contains(name)) names.insert(name);
    }
    return names;
  }
  [[nodiscard]] bool is_routable() const {
    const auto alive = holders();
    return std::ranges::any_of(places(), [&](const auto& name) { return alive.contains(name); });
  }

  void advance_to(step wanted) {
    for (int i = 0; i < 40 && at() != wanted; ++i) advance();
    ASSERT_EQ(to_string(at()), to_string(wanted));
  }

  void kill(party who) {
    if (who == party::coordinator) return restart_coordinator();
    const auto& name = who == party::source ? source : target;
    h_->stop_beating(name);
    h_->held.erase(name);
    static_cast<void>(h_->take_messages(name));
    killed_ = name;
  }
  // The node that was killed starts again, with nothing in its slots.
  void restart_node() {
    if (!killed_.empty()) h_->add_expert_node(killed_, slots, 2);
  }

  // Everybody works on. @post what was routable once stays so.
  void go_on(std::chrono::milliseconds length) {
    for (const auto end = h_->now + length; h_->now < end;) {
      h_->pass(50ms);
      for (const auto& [name, incarnation] : std::map(h_->beating)) {
        if (name == "r") {
          h_->acknowledge(name);
        } else {
          end_loading(name);
          h_->obey(name);
        }
      }
      was_routable_ = was_routable_ || is_routable();
      if (was_routable_ && !is_routable()) ++lost_again_;
    }
  }
  // Moments at which the expert had been routable since the kill and was not any more.
  [[nodiscard]] int lost_again() const { return lost_again_; }

  std::set<std::string> before;
  std::string source, target;

 private:
  static constexpr std::uint32_t slots = 8;
  static cluster_settings settings() { return settings_of(3, 1, 3); }

  void advance() {
    switch (at()) {
      case step::reserve:
        begin_loading();
        break;
      case step::copy:
        end_loading(target);
        break;
      case step::acknowledge:
      case step::drain:
        h_->acknowledge("r");
        h_->pass(50ms);
        break;
      default:
        h_->pass(50ms);
    }
  }
  void begin_loading() {
    auto& mine = h_->held[target];
    for (const auto& message : h_->take_messages(target)) {
      const auto* load = std::get_if<load_order>(&message.what);
      if (load == nullptr) continue;
      mine.push_back({load->slot, load->expert, load->version, reported_slot_state::loading, std::nullopt, 0, 0, ""});
    }
    h_->report(target, std::vector(mine));
  }
  void end_loading(const std::string& name) {
    bool any = false;
    for (auto& slot : h_->held[name]) {
      if (slot.state != reported_slot_state::loading) continue;
      slot = {slot.slot, slot.expert, slot.version, reported_slot_state::ready, digest_of(slot.expert.index), 100,
              110,       ""};
      any = true;
    }
    if (any) h_->report(name, std::vector(h_->held[name]));
  }
  void restart_coordinator() {
    auto again = std::make_unique<core_harness>(settings(), h_->disk());
    for (const char* name : {"a", "b", "c"}) {
      again->join(name, 1, slots);
      again->beating[name] = 1;
      again->report(name, h_->held[name]);
    }
    again->add_router("r");
    h_ = std::move(again);
  }

  std::unique_ptr<core_harness> h_;
  std::string killed_;
  bool was_routable_{};
  int lost_again_{};
};

// Longer than any wait of the coordinator's.
constexpr auto long_enough = limits::restart_grace + 60s;

void expect_consistent(const scene& s, change what, const std::string& where) {
  EXPECT_EQ(s.places(), s.holders()) << where << ": the map and the slots say the same";
  EXPECT_EQ(s.places().size(), what == change::replicate_up ? 2U : 1U) << where;
}

// What `op show` says is what has happened.
void expect_told_truly(const scene& s, change what, step when, bool target_is_gone, const std::string& where) {
  const auto& operation = s.operation();
  const auto said = to_string(operation.state);
  if (operation.state == operation_state::done) {
    // From the drain on the target was the one that served: it was done, then lost, and the plan placed it anew.
    EXPECT_TRUE(!target_is_gone || what != change::migrate || when >= step::drain) << where << " is said to be done";
    return;
  }
  ASSERT_EQ(operation.state, operation_state::rolled_back) << where << ": " << said << " at " << to_string(s.at());
  EXPECT_EQ(what, change::migrate) << where << ": other nodes can take the replica";
  EXPECT_NE(operation.reason.find(s.target), std::string::npos) << where << ": " << operation.reason;
  if (when < step::drain) {
    EXPECT_EQ(s.places(), s.before) << where;
  }
}

void kill_at(change what, step when, party who, bool comes_back) {
  scene s{what};
  const auto where = std::string{name_of(what)} + " at " + std::string{to_string(when)} + ", killed " + name_of(who) +
                     (comes_back ? "" : " for good");
  s.advance_to(when);
  if (::testing::Test::HasFatalFailure()) return;
  EXPECT_TRUE(s.is_routable()) << where;
  s.kill(who);
  if (comes_back) s.restart_node();
  s.go_on(long_enough);
  EXPECT_EQ(s.lost_again(), 0) << where;
  expect_consistent(s, what, where);
  expect_told_truly(s, what, when, who == party::target && !comes_back, where);
  if (who != party::target && s.operation().state == operation_state::done && what == change::migrate) {
    EXPECT_EQ(s.places(), std::set{s.target}) << where;
  }
}

TEST(operation_faults, a_coordinator_killed_at_any_step_goes_on_to_the_end) {
  for (auto what : {change::migrate, change::replicate_up, change::replicate_down}) {
    for (auto when : steps_of(what)) kill_at(what, when, party::coordinator, true);
  }
}

TEST(operation_faults, a_source_killed_at_any_step_leaves_a_consistent_placement) {
  for (auto what : {change::migrate, change::replicate_up, change::replicate_down}) {
    for (auto when : steps_of(what)) {
      kill_at(what, when, party::source, true);
      kill_at(what, when, party::source, false);
    }
  }
}

TEST(operation_faults, a_target_killed_at_any_step_leaves_a_consistent_placement) {
  for (auto what : {change::migrate, change::replicate_up, change::replicate_down}) {
    for (auto when : steps_of(what)) {
      kill_at(what, when, party::target, true);
      kill_at(what, when, party::target, false);
    }
  }
}

TEST(operation_faults, a_cancel_at_any_step_goes_back) {
  for (auto what : {change::migrate, change::replicate_up, change::replicate_down}) {
    for (auto when : steps_of(what)) {
      scene s{what};
      const auto where = std::string{name_of(what)} + " cancelled at " + std::string{to_string(when)};
      s.advance_to(when);
      if (::testing::Test::HasFatalFailure()) return;
      auto answer = s.harness().command(cancel_operation{operation_name(s.operation().number), false});
      ASSERT_TRUE(answer) << where << ": " << answer.error().message;
      s.go_on(long_enough);
      EXPECT_EQ(to_string(s.operation().state), "cancelled") << where;
      EXPECT_EQ(s.lost_again(), 0) << where;
      EXPECT_EQ(s.places(), s.before) << where;
      EXPECT_EQ(s.holders(), s.before) << where;
    }
  }
}

}  // namespace
}  // namespace troupe::coordinator::testing
