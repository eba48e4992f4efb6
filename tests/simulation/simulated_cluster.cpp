#include "tests/simulation/simulated_cluster.hpp"

#include <algorithm>
#include <cstdlib>

#include <fmt/format.h>

#include "common/limits.hpp"

namespace troupe::simulation {
namespace {

const bool tracing = std::getenv("TROUPE_SIM_TRACE") != nullptr;

// Far more than a quiet or a disturbed cluster ever has under way.
constexpr std::size_t agenda_max = 20'000;

}  // namespace

// Of what the model's own folder has.
sha256_digest digest_of(const expert_id& expert) {
  sha256_digest digest{};
  digest[0] = static_cast<std::byte>(expert.layer.value);
  digest[1] = static_cast<std::byte>(expert.index);
  return digest;
}

cluster_settings settings_of(const cluster_shape& shape) {
  cluster_settings settings{"sim", "model", shape.replication, static_cast<std::uint32_t>(shape.slots.size()), {}};
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    auto& gate = settings.gates[layer_id::of(layer)];
    gate.num_experts = shape.experts_per_layer;
    gate.top_k = 1;
    for (std::uint32_t e = 0; e < shape.experts_per_layer; ++e) {
      settings.experts.push_back({{layer_id::of(layer), e}, 1000});
    }
  }
  return settings;
}

simulated_cluster::simulated_cluster(cluster_shape shape, std::uint64_t seed)
    : shape_(std::move(shape)), random_(seed) {
  for (std::size_t n = 0; n < shape_.slots.size(); ++n) {
    simulated_node node;
    node.name = {fmt::format("expert-{}", n)};
    node.slots_total = shape_.slots[n];
    if (n < shape_.zones.size()) node.zone = shape_.zones[n];
    nodes_.push_back(std::move(node));
  }
  for (std::uint32_t r = 0; r < shape_.routers; ++r) {
    simulated_node node;
    node.name = {fmt::format("router-{}", r)};
    node.role = node_role::router;
    nodes_.push_back(std::move(node));
  }
  lives_.resize(nodes_.size());
  start_coordinator();
  for (std::size_t n = 0; n < nodes_.size(); ++n) start_node(n);
}

// -- time and chance --------------------------------------------------------------------------------------------------

void simulated_cluster::after(milliseconds delay, std::function<void()> what) {
  agenda_.push({now_ + delay, ++order_, std::move(what)});
}

bool simulated_cluster::chance(double probability) {
  return probability > 0 && std::uniform_real_distribution<>(0, 1)(random_) < probability;
}

milliseconds simulated_cluster::between(milliseconds low, milliseconds high) {
  return milliseconds(std::uniform_int_distribution<std::int64_t>(low.count(), high.count())(random_));
}

// Asked every 100 ms.
bool simulated_cluster::is_due(milliseconds mean) {
  return mean.count() > 0 && chance(100.0 / static_cast<double>(mean.count()));
}

void simulated_cluster::note(std::string text) {
  if (!tracing) return;
  auto ms = std::chrono::duration_cast<milliseconds>(now_.time_since_epoch() - std::chrono::hours(1)).count();
  history_ += fmt::format("{:>7} {}\n", ms, text);
}

void simulated_cluster::violate(std::string text) {
  note(fmt::format("VIOLATION {}", text));
  if (violation_.empty()) violation_ = std::move(text);
}

void simulated_cluster::run(milliseconds length, const fault_options& faults) {
  faults_ = faults;
  auto end = now_ + length;
  auto next_fault = now_ + milliseconds(100);
  while (violation_.empty()) {
    auto next = agenda_.empty() ? end : agenda_.top().at;
    if (next_fault < end && next_fault <= next) {
      now_ = std::max(now_, next_fault);
      next_fault += milliseconds(100);
      inject();
      continue;
    }
    if (next >= end) break;
    now_ = next;
    auto what = std::move(const_cast<scheduled&>(agenda_.top()).what);
    agenda_.pop();
    what();
    if (agenda_.size() > agenda_max) violate("messages beget messages without end");
  }
  now_ = std::max(now_, end);
}

// -- network
// ------------------------------------------------------------------------------------------------------------

void simulated_cluster::transmit(const std::string& node, bool up, std::function<void()> deliver) {
  if (cut_.contains(node) || chance(faults_.loss)) return;
  auto copies = chance(faults_.duplicate) ? 2 : 1;
  for (int copy = 0; copy < copies; ++copy) {
    auto at = now_ + between(milliseconds(1), faults_.delay_max);
    auto& last = last_delivery_[{node, up}];
    if (!faults_.reorder) at = std::max(at, last);
    last = std::max(last, at);
    agenda_.push({at, ++order_, deliver});
  }
}

void simulated_cluster::to_coordinator(simulated_node& node, event what) {
  transmit(node.name.value, true, [this, what = std::move(what)] { step(what); });
}

void simulated_cluster::to_node(const node_id& name, incarnation_number incarnation,
                                std::function<void(simulated_node&)> what) {
  transmit(name.value, false, [this, name, incarnation, what = std::move(what)] {
    auto* node = find(name);
    if (node == nullptr || !node->alive || node->incarnation != incarnation) return;
    if (now_ < node->frozen_until) {  // read when it wakes up
      auto wait = std::chrono::duration_cast<milliseconds>(node->frozen_until - now_) + milliseconds(1);
      after(wait, [this, name, incarnation, what] {
        auto* late = find(name);
        if (late != nullptr && late->alive && late->incarnation == incarnation) what(*late);
      });
      return;
    }
    what(*node);
  });
}

// -- nodes
// --------------------------------------------------------------------------------------------------------------

simulated_cluster::simulated_node* simulated_cluster::find(const node_id& name) {
  auto at = std::ranges::find(nodes_, name, &simulated_node::name);
  return at == nodes_.end() ? nullptr : &*at;
}
const simulated_cluster::simulated_node* simulated_cluster::find(const node_id& name) const {
  auto at = std::ranges::find(nodes_, name, &simulated_node::name);
  return at == nodes_.end() ? nullptr : &*at;
}

void simulated_cluster::start_node(std::size_t n) {
  auto& node = nodes_[n];
  if (node.alive) return;
  note(fmt::format("start {}", node.name.value));
  node.alive = true;
  node.joined = false;
  node.incarnation = {next_incarnation_++};
  node.term = {};
  node.newest_order = {};
  node.sequence = 0;
  node.slots.clear();
  node.map.reset();
  node.frozen_until = {};
  beat(n, ++lives_[n]);
}

void simulated_cluster::crash_node(std::size_t n) {
  note(fmt::format("crash {}", nodes_[n].name.value));
  nodes_[n].alive = false;
  nodes_[n].slots.clear();
  ++lives_[n];
}

void simulated_cluster::freeze_node(std::size_t n, milliseconds length) {
  note(fmt::format("freeze {}", nodes_[n].name.value));
  nodes_[n].frozen_until = now_ + length;
}

void simulated_cluster::cut_node(const std::string& name, bool cut) {
  note(fmt::format("{} {}", cut ? "cut" : "join up", name));
  if (cut) {
    cut_.insert(name);
  } else {
    cut_.erase(name);
  }
}

void simulated_cluster::beat(std::size_t n, std::uint64_t life) {
  if (lives_[n] != life) return;
  auto& node = nodes_[n];
  if (now_ >= node.frozen_until) {
    if (!node.joined && now_ - node.last_join >= milliseconds(500)) join(node);
    auto name = node.name;
    auto incarnation = node.incarnation;
    heartbeat beat{name, incarnation, node.map ? node.map->epoch : epoch_number{}};
    transmit(name.value, true, [this, beat] {
      step(beat);
      answer_beat(beat.node, beat.incarnation);
    });
  }
  after(limits::heartbeat_interval, [this, n, life] { this->beat(n, life); });
}

void simulated_cluster::answer_beat(const node_id& name, incarnation_number incarnation) {
  if (!coordinator_) return;
  auto members = coordinator_->members();
  bool known = std::ranges::find(members, std::pair(name, incarnation)) != members.end();
  if (known) return;
  to_node(name, incarnation, [this](simulated_node& node) {
    node.joined = false;
    if (now_ - node.last_join >= milliseconds(500)) join(node);
  });
}

void simulated_cluster::join(simulated_node& node) {
  node.last_join = now_;
  node_facts facts;
  facts.role = node.role;
  facts.pid = node.incarnation.value;
  facts.data_address = fmt::format("ipc://{}", node.name.value);
  facts.machine_id = std::string("machine-of-the-simulation");
  facts.zone = node.zone;
  facts.dtype = "f32";
  facts.slots_total = node.slots_total;
  facts.model_fingerprint = "model";
  auto peer = fmt::format("{}#{}", node.name.value, node.incarnation.value);
  to_coordinator(node, join_request{peer, "sim", node.name, node.incarnation, facts});
}

void simulated_cluster::receive(simulated_node& node, const node_message& message) {
  std::visit(
      overloaded{
          [&](const join_reply& reply) {
            if (reply.refused && reply.refused->code == errc::stale_epoch) {
              node.incarnation = {next_incarnation_++};
              return join(node);
            }
            if (reply.refused) return;
            node.joined = true;
            node.term = std::max(node.term, reply.term);
            if (node.role == node_role::expert) report(node);
          },
          [&](const load_order& order) { load(node, order); }, [&](const free_order& order) { free(node, order); },
          [&](const inventory_request&) { report(node); }, [](const cold_notice&) {},  // these routers keep no inputs
      },
      message.what);
}

// Orders count in rising order of (term, command), and never one of a coordinator that has been replaced.
bool simulated_cluster::obey(simulated_node& node, term_number term, std::uint64_t command) {
  if (term < node.term || std::pair(term, command) <= node.newest_order) return false;
  node.term = term;
  node.newest_order = {term, command};
  return true;
}

void simulated_cluster::load(simulated_node& node, const load_order& order) {
  if (!obey(node, order.term, order.command)) return;
  if (order.slot.value >= node.slots_total)
    return violate(fmt::format("{} was told to load into a slot it lacks", node.name.value));
  bool elsewhere = std::ranges::any_of(node.slots, [&](const auto& item) {
    return item.first != order.slot && item.second.expert == order.expert && item.second.version == order.version &&
           item.second.state != reported_slot_state::failed && item.second.state != reported_slot_state::freeing;
  });
  if (node.slots.contains(order.slot) || elsewhere) return report(node);
  auto number = next_load_++;
  if (order.version.value > 1 && (!order.digest || order.folder.empty()))
    violate(fmt::format("version {} is loaded from nowhere", order.version.value));
  node.slots[order.slot] = {order.expert,
                            order.version,
                            reported_slot_state::loading,
                            order.version.value > 1 ? *order.digest : digest_of(order.expert),
                            chance(faults_.wrong_digest),
                            number};
  report(node);
  bool fails = chance(faults_.load_failure);
  auto name = node.name;
  auto slot = order.slot;
  after(between(milliseconds(10), milliseconds(150)), [this, name, slot, number, fails] {
    auto* loaded = find(name);
    auto at = loaded->slots.find(slot);
    if (at == loaded->slots.end() || at->second.load != number) return;
    if (at->second.state == reported_slot_state::freeing) {
      loaded->slots.erase(at);
    } else {
      at->second.state = fails ? reported_slot_state::failed : reported_slot_state::ready;
    }
    report(*loaded);
  });
}

void simulated_cluster::free(simulated_node& node, const free_order& order) {
  if (!obey(node, order.term, order.command)) return;
  auto at = node.slots.find(order.slot);
  bool is_it = at != node.slots.end() && at->second.expert == order.expert && at->second.version == order.version;
  if (!is_it) return report(node);
  bool loading = at->second.state == reported_slot_state::loading;
  at->second.state = reported_slot_state::freeing;
  report(node);
  if (loading) return;  // the end of the load frees it
  auto name = node.name;
  auto slot = order.slot;
  auto number = at->second.load;
  after(between(milliseconds(0), milliseconds(60)), [this, name, slot, number] {
    auto* freed = find(name);
    auto found = freed->slots.find(slot);
    if (found == freed->slots.end() || found->second.load != number) return;
    freed->slots.erase(found);
    report(*freed);
  });
}

void simulated_cluster::receive_map(simulated_node& node, const std::shared_ptr<const cluster_map>& map) {
  if (!node.map || node.map->is_older_than(*map)) node.map = map;
  node.term = std::max(node.term, map->term);
  if (node.role != node_role::router) return;
  to_coordinator(node, map_acknowledged{node.name, node.incarnation, node.map->term, node.map->epoch});
}

void simulated_cluster::report(simulated_node& node) {
  inventory_report report{node.name, node.incarnation, ++node.sequence, node.term, {}};
  for (const auto& [slot, held] : node.slots) {
    slot_report line{slot, held.expert, held.version, held.state, std::nullopt, 1000, 1100, ""};
    if (held.state == reported_slot_state::ready) {
      line.digest = held.digest;
      if (held.wrong_digest) (*line.digest)[31] = std::byte{1};
    }
    if (held.state == reported_slot_state::failed) line.failure = "simulated";
    report.slots.push_back(std::move(line));
  }
  to_coordinator(node, std::move(report));
}

// -- coordinator
// ----------------------------------------------------------------------------------------------------------

const cluster_state* simulated_cluster::coordinator_state() const {
  return coordinator_ ? &coordinator_->state() : nullptr;
}

void simulated_cluster::start_coordinator() {
  if (coordinator_) return;
  note("start coordinator");
  auto made = cluster_state_machine::create(settings_of(shape_), disk_, now_);
  if (!made) return violate(made.error().message);
  coordinator_ = std::move(*made);
  ++coordinator_life_;
  check_history();
  perform();
  tick(coordinator_life_);
}

void simulated_cluster::crash_coordinator() {
  note("crash coordinator");
  coordinator_.reset();
  ++coordinator_life_;
}

void simulated_cluster::tick(std::uint64_t life) {
  if (!coordinator_ || coordinator_life_ != life) return;
  coordinator_->tick(now_);
  perform();
  after(milliseconds(25), [this, life] { this->tick(life); });
}

void simulated_cluster::step(const event& what) {
  if (!coordinator_) return;
  coordinator_->step(what, now_);
  perform();
}

void simulated_cluster::command(const admin_command& what) { step(what); }

// The disk takes a moment, and a crash may come before or after the write.
void simulated_cluster::perform() {
  auto out = coordinator_->take_output();
  if (out.empty()) return;
  if (out.persist.empty()) return deliver(std::move(out));
  auto life = coordinator_life_;
  auto shared = std::make_shared<output>(std::move(out));
  after(between(milliseconds(1), milliseconds(8)), [this, life, shared] {
    if (!coordinator_ || life != coordinator_life_) return;
    auto ticket = shared->ticket;
    if (chance(faults_.store_failure)) {
      step(persist_result{ticket, error{errc::no_space, "disk full"}});
      return;
    }
    save(shared->persist);
    if (chance(faults_.store_failure / 4)) {  // written, but nobody hears of it
      crash_coordinator();
      return;
    }
    deliver(std::move(*shared));
    step(persist_result{ticket, std::nullopt});
  });
}

void simulated_cluster::save(const std::vector<store_record>& records) {
  auto put = [](auto& rows, auto member, const auto& row) {
    auto at = std::ranges::find(rows, row.*member, member);
    if (at == rows.end()) {
      rows.push_back(row);
    } else {
      *at = row;
    }
  };
  for (const auto& item : records) {
    std::visit(overloaded{
                   [&](const cluster_record& row) { disk_.cluster = row; },
                   [&](const node_record& row) { put(disk_.nodes, &node_record::node, row); },
                   [&](const expert_record& row) { put(disk_.experts, &expert_record::expert, row); },
                   [&](const command_record& row) { put(disk_.commands, &command_record::command_id, row); },
                   [&](const wish_record& row) { put(disk_.wishes, &wish_record::expert, row); },
                   [&](const operation_record& row) { put(disk_.operations, &operation_record::number, row); },
                   [&](const schedule_record& row) { disk_.schedule = row; },
                   [&](const scheduled_run& row) { put(disk_.runs, &scheduled_run::number, row); },
                   [&](const watch_record& row) { put(disk_.watches, &watch_record::layer, row); },
                   [&](const epoch_record& row) {
                     std::erase_if(disk_.epochs, [&](const auto& r) { return r.what.epoch >= row.what.epoch; });
                     disk_.epochs.push_back(row);
                   },
                   [&](const source_record& row) { put(disk_.sources, &source_record::version, row); },
                   [&](const operation_erased& gone) {
                     std::erase_if(disk_.operations, [&](const auto& row) { return row.number == gone.number; });
                   },
                   [&](const node_erased& gone) {
                     std::erase_if(disk_.nodes, [&](const auto& row) { return row.node == gone.node; });
                   },
                   [&](const command_erased& gone) {
                     std::erase_if(disk_.commands, [&](const auto& row) { return row.command_id == gone.command_id; });
                   },
               },
               item);
  }
}

void simulated_cluster::deliver(output out) {
  for (auto& message : out.messages) {
    check_order(message);
    auto hash = message.peer.find('#');
    incarnation_number incarnation{hash == std::string::npos ? 0 : std::stoull(message.peer.substr(hash + 1))};
    auto name = message.node;
    to_node(name, incarnation, [this, message = std::move(message)](simulated_node& node) { receive(node, message); });
  }
  if (out.published) {
    check_publication(*out.published->map);
    for (const auto& to : out.published->to) {
      incarnation_number incarnation{std::stoull(to.peer.substr(to.peer.find('#') + 1))};
      auto map = out.published->map;
      to_node(to.node, incarnation, [this, map](simulated_node& node) { receive_map(node, map); });
    }
  }
  for (auto& answer : out.replies) {
    if (answer.outcome) {
      auto text = fmt::format("{} {} {}", answer.outcome->verb, answer.outcome->operation, answer.outcome->message);
      auto [first, fresh] = answered_.try_emplace(answer.command_id, text);
      if (!fresh && first->second != text)
        violate(fmt::format("command {} was answered in two ways", answer.command_id));
    }
    replies_.push_back(std::move(answer));
  }
  if (tracing) {
    for (const auto& e : out.events) note(fmt::format("{}: {}", e.kind, e.text));
  }
  check_beliefs();
  check_truth();
}

}  // namespace troupe::simulation
