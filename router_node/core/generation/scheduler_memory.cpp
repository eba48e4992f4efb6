// The scheduler's dealings with the KV memory: prefix cache, models, growth, preemption.
#include <algorithm>

#include "router_node/core/generation/scheduler.hpp"
#include "router_node/core/generation/sequence.hpp"

namespace troupe::router {

// Goes on with known blocks where the sequence stands, all but its last token at most. Returns the tokens found.
// Nothing when it stands inside a block or has blocks of its own already.
std::uint32_t scheduler::take_prefix(sequence& s) {
  if (s.request.wants_all_rows || s.blocks.size() != s.known_blocks ||
      s.computed != s.known_blocks * limits::kv_block_tokens) {
    return 0;
  }
  const auto before = s.computed;
  while (s.remaining() > limits::kv_block_tokens) {
    const auto found = pool_.find_block(s.prefix, s.block_tokens(s.known_blocks));
    if (!found) break;
    s.blocks.push_back(found->block);
    s.prefix = found->prefix;
    ++s.known_blocks;
    s.computed += limits::kv_block_tokens;
  }
  return s.computed - before;
}

void scheduler::count_cached(sequence& s, std::uint32_t tokens) {
  counters_.cached_tokens += tokens;
  if (!s.was_preempted) s.cached_tokens = std::min(s.cached_tokens + tokens, s.request.prompt_tokens);
}

// After rows were committed: full blocks become known. An inexact row's block and all behind it never do.
void scheduler::publish_blocks(sequence& s) {
  while (s.is_exact && (s.known_blocks + 1) * limits::kv_block_tokens <= s.computed) {
    auto& block = s.blocks[s.known_blocks];
    const auto known = pool_.publish(s.prefix, s.block_tokens(s.known_blocks), block);
    block = known.block;
    s.prefix = known.prefix;
    ++s.known_blocks;
  }
}

// Gets blocks for the first `tokens` tokens, from younger sequences if need be. False: there are not enough now; what
// could be had is kept, and the rest is got as soon as a step is committed.
bool scheduler::grow(sequence& s, std::uint32_t tokens) {
  while (s.blocks.size() < blocks_for(tokens)) {
    if (const auto block = pool_.allocate()) {
      s.blocks.push_back(*block);
    } else if (auto* victim = find_victim(s)) {
      preempt(*victim);
    } else {
      s.short_until = tokens;
      return false;
    }
  }
  s.short_until = 0;
  return true;
}

// Before younger ones go into a step again, where their blocks cannot be had.
void scheduler::serve_short_of_blocks() {
  const auto oldest_first = running_;
  for (auto* s : oldest_first) {
    if (s->is<sequence_ready>() && s->short_until > 0) (void)grow(*s, s->short_until);
  }
}

// Whose blocks `s` may have: a stalled sequence's, which can do nothing with them now, else a younger one's.
sequence* scheduler::find_victim(const sequence& s) {
  sequence* younger = nullptr;
  for (auto at = running_.rbegin(); at != running_.rend(); ++at) {
    auto* other = *at;
    if (other == &s || other->blocks.empty()) continue;
    if (other->is<sequence_stalled>()) return other;
    if (younger == nullptr && other->is<sequence_ready>() && other->age > s.age) younger = other;
  }
  return younger;
}

// Who has waited for an expert for so long that others may have its place: the youngest of them.
sequence* scheduler::find_hopeless(time_point now) {
  for (auto at = running_.rbegin(); at != running_.rend(); ++at) {
    auto* s = *at;
    if (s->is<sequence_stalled>() && now - *s->stalled_since >= limits::stall_patience) return s;
  }
  return nullptr;
}

void scheduler::preempt(sequence& s) {
  const auto* stalled = std::get_if<sequence_stalled>(&s.state);
  s.retry_at = stalled != nullptr ? stalled->until : time_point{};
  leave_place(s);
  release_blocks(s);
  s.state = sequence_in_line{};
  s.was_preempted = true;
  preempted_.insert(std::ranges::upper_bound(preempted_, s.age, {}, &sequence::age), &s);
  ++counters_.preemptions;
}

// -- models -------------------------------------------------------------------------------------------------------

void scheduler::forget_prefixes() {
  pool_.renew_root();
  for (auto& [id, s] : sequences_) {
    s->root = s->model == model_ ? pool_.root() : pool_.unique_prefix();
    if (s->blocks.empty()) s->prefix = s->root;
  }
}

void scheduler::change_model(epoch_number model) {
  model_ = model;
  pool_.renew_root();
  for (auto& [id, s] : sequences_) {
    if (options_.pins && s->age != 0) continue;
    s->model = model_;
    s->root = pool_.root();
    if (s->blocks.empty()) s->prefix = s->root;
  }
}

void scheduler::unpin(sequence_id id) {
  const auto at = sequences_.find(id.value);
  if (at == sequences_.end() || at->second->model == model_) return;
  auto& s = *at->second;
  s.model = model_;
  s.root = pool_.root();
  if (s.blocks.empty()) {
    s.prefix = s.root;
  } else {
    s.is_exact = false;
  }
  ++counters_.unpinned;
}

epoch_number scheduler::oldest_model() const {
  auto oldest = model_;
  for (const auto* begun : {&running_, &preempted_}) {
    for (const auto* s : *begun) oldest = std::min(oldest, s->model);
  }
  return oldest;
}

std::size_t scheduler::behind() const {
  const auto is_behind = [this](const sequence* s) { return s->model < model_; };
  return static_cast<std::size_t>(std::ranges::count_if(running_, is_behind) +
                                  std::ranges::count_if(preempted_, is_behind));
}

// The sequence begins anew.
void scheduler::release_blocks(sequence& s) {
  pool_.release_all(s.blocks);
  s.blocks.clear();
  s.computed = 0;
  s.known_blocks = 0;
  s.prefix = s.root;
  s.is_exact = true;
  s.short_until = 0;
}

}  // namespace troupe::router
