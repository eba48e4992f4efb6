#include "expert_node/core/slot_table.hpp"

#include <cassert>

#include <fmt/format.h>

namespace troupe::expert {
namespace {

template <class... Handlers>
struct overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
overloaded(Handlers...) -> overloaded<Handlers...>;

const slot_content* content_of(const slot_state& state) {
  return std::visit(overloaded{[](const slot_empty&) -> const slot_content* { return nullptr; },
                               [](const auto& occupied) { return &occupied.content; }},
                    state);
}

std::string describe(const slot_content& content) {
  return fmt::format("{} version {}", to_string(content.expert), content.version.value);
}

}  // namespace

slot_table::slot_table(std::uint32_t slots) : slots_(slots) {}

result<void> slot_table::check(slot_index slot) const {
  if (slot.value < slots_.size()) return {};
  return fail(errc::not_found,
              fmt::format("no slot {}; this node has slots 0-{}", slot.value, std::int64_t{size()} - 1));
}

result<slot_table::load_step> slot_table::begin_load(slot_index slot, const slot_content& content) {
  if (auto known = check(slot); !known) return fail(known.error());
  auto& state = slots_[slot.value];
  if (const auto* held = content_of(state); held != nullptr && !std::holds_alternative<slot_failed>(state)) {
    bool same = *held == content && !std::holds_alternative<slot_freeing>(state);
    if (same) return load_step::already_so;
    return fail(errc::conflict, fmt::format("slot {} holds expert {}, so {} cannot be loaded; free the slot first",
                                            slot.value, describe(*held), describe(content)));
  }
  for (std::uint32_t other = 0; other < size(); ++other) {
    const auto* held = content_of(slots_[other]);
    bool elsewhere = other != slot.value && held != nullptr && *held == content;
    if (elsewhere && !std::holds_alternative<slot_failed>(slots_[other]) &&
        !std::holds_alternative<slot_freeing>(slots_[other])) {
      return fail(errc::conflict, fmt::format("expert {} is in slot {} already; a second copy on one node has no use",
                                              describe(content), other));
    }
  }
  state = slot_loading{content};
  return load_step::start;
}

bool slot_table::finish_load(slot_index slot, const loaded_facts& facts) {
  auto& state = slots_.at(slot.value);
  if (auto* freeing = std::get_if<slot_freeing>(&state)) {
    freeing->users = 0;
    return false;
  }
  assert(std::holds_alternative<slot_loading>(state));
  auto content = std::get<slot_loading>(state).content;
  state = slot_ready{content, facts, 0};
  ready_.emplace(content, slot);
  return true;
}

bool slot_table::fail_load(slot_index slot, error reason, time_point now) {
  auto& state = slots_.at(slot.value);
  if (auto* freeing = std::get_if<slot_freeing>(&state)) {
    freeing->users = 0;
    return false;
  }
  assert(std::holds_alternative<slot_loading>(state));
  auto content = std::get<slot_loading>(state).content;
  state = slot_failed{content, std::move(reason), now};
  return true;
}

result<slot_table::free_step> slot_table::begin_free(slot_index slot, const slot_content& content) {
  if (auto known = check(slot); !known) return fail(known.error());
  auto& state = slots_[slot.value];
  const auto* held = content_of(state);
  if (held == nullptr) return free_step::already_empty;
  if (*held != content) {
    return fail(errc::conflict, fmt::format("slot {} holds expert {}, not {}; it stays as it is", slot.value,
                                            describe(*held), describe(content)));
  }
  return std::visit(overloaded{
                        [](slot_empty&) { return free_step::already_empty; },
                        [](slot_freeing&) { return free_step::wait; },
                        [&](slot_failed&) {
                          state = slot_empty{};
                          return free_step::already_empty;
                        },
                        [&](slot_loading&) {
                          state = slot_freeing{content, 1};  // the loader
                          return free_step::wait;
                        },
                        [&](slot_ready& ready) {
                          auto users = ready.users;
                          ready_.erase(content);
                          state = slot_freeing{content, users};
                          return users == 0 ? free_step::unload_now : free_step::wait;
                        },
                    },
                    state);
}

void slot_table::finish_free(slot_index slot) {
  auto& state = slots_.at(slot.value);
  assert(std::holds_alternative<slot_freeing>(state) && std::get<slot_freeing>(state).users == 0);
  state = slot_empty{};
}

std::optional<slot_index> slot_table::pin(const slot_content& content) {
  auto found = ready_.find(content);
  if (found == ready_.end()) return std::nullopt;
  ++std::get<slot_ready>(slots_[found->second.value]).users;
  return found->second;
}

std::optional<slot_index> slot_table::other_version(const slot_content& content) const {
  for (auto at = ready_.lower_bound({content.expert, {0}}); at != ready_.end(); ++at) {
    if (at->first.expert != content.expert) break;
    if (at->first.version != content.version) return at->second;
  }
  return std::nullopt;
}

bool slot_table::unpin(slot_index slot) {
  auto& state = slots_.at(slot.value);
  if (auto* ready = std::get_if<slot_ready>(&state)) {
    assert(ready->users > 0);
    --ready->users;
    return false;
  }
  auto& freeing = std::get<slot_freeing>(state);
  assert(freeing.users > 0);
  return --freeing.users == 0;
}

std::uint32_t slot_table::used() const {
  std::uint32_t count = 0;
  for (const auto& state : slots_) count += std::holds_alternative<slot_empty>(state) ? 0U : 1U;
  return count;
}

std::uint64_t slot_table::resident_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& state : slots_) {
    if (const auto* ready = std::get_if<slot_ready>(&state)) bytes += ready->facts.resident_bytes;
  }
  return bytes;
}

std::vector<slot_report> slot_table::inventory() const {
  using phase = slot_report::phase;
  std::vector<slot_report> reports;
  for (std::uint32_t index = 0; index < size(); ++index) {
    const auto* content = content_of(slots_[index]);
    if (content == nullptr) continue;
    slot_report report{{index}, *content, phase::loading, std::nullopt, std::nullopt};
    std::visit(overloaded{[](const slot_empty&) {}, [](const slot_loading&) {},
                          [&](const slot_ready& ready) {
                            report.state = phase::ready;
                            report.facts = ready.facts;
                          },
                          [&](const slot_failed& failed) {
                            report.state = phase::failed;
                            report.reason = failed.reason;
                          },
                          [&](const slot_freeing&) { report.state = phase::freeing; }},
               slots_[index]);
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace troupe::expert
