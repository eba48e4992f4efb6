#include "router_node/core/generation/kv_block_pool.hpp"

#include <algorithm>
#include <cassert>

#include <fmt/format.h>

#include "router_node/core/generation/mixing.hpp"

namespace troupe::router {
namespace {

constexpr block_index none = ~block_index{};

}  // namespace

std::size_t kv_block_pool::content_hash::operator()(const content& c) const noexcept {
  auto hash = mixed(c.before.value);
  for (std::size_t i = 0; i < c.tokens.size(); i += 2) {
    hash = mixed(hash ^ (std::uint64_t{c.tokens[i]} << 32 | c.tokens[i + 1]));
  }
  return hash;
}
static_assert(limits::kv_block_tokens % 2 == 0, "tokens are hashed in pairs");

kv_block_pool::kv_block_pool(std::uint32_t blocks) : blocks_(blocks), free_(blocks), oldest_(none), newest_(none) {
  unknown_.reserve(blocks);
  for (auto index = blocks; index > 0; --index) unknown_.push_back(index - 1);
}

kv_block_pool::content kv_block_pool::content_of(prefix_number before, std::span<const token_number> tokens) {
  assert(tokens.size() == limits::kv_block_tokens);
  content c{before, {}};
  std::ranges::copy(tokens, c.tokens.begin());
  return c;
}

std::optional<block_index> kv_block_pool::allocate() {
  if (free_ == 0) return std::nullopt;
  block_index index{};
  if (!unknown_.empty()) {
    index = unknown_.back();
    unknown_.pop_back();
  } else {
    index = oldest_;
    unlink(index);
    by_content_.erase(*blocks_[index].holds);
    blocks_[index].holds.reset();
  }
  blocks_[index].users = 1;
  --free_;
  return index;
}

std::optional<known_block> kv_block_pool::find_block(prefix_number before, std::span<const token_number> tokens) {
  const auto at = by_content_.find(content_of(before, tokens));
  if (at == by_content_.end()) return std::nullopt;
  use(at->second);
  return known_block{at->second, blocks_[at->second].prefix};
}

known_block kv_block_pool::publish(prefix_number before, std::span<const token_number> tokens, block_index index) {
  auto& b = blocks_[index];
  assert(b.users == 1 && !b.holds);
  auto c = content_of(before, tokens);
  if (const auto at = by_content_.find(c); at != by_content_.end()) {
    const auto other = at->second;
    use(other);
    release(index);
    return {other, blocks_[other].prefix};
  }
  by_content_.emplace(c, index);
  b.holds = c;
  b.prefix = prefix_number{++last_prefix_};
  return {index, b.prefix};
}

void kv_block_pool::use(block_index index) {
  auto& b = blocks_[index];
  if (b.users++ > 0) return;
  unlink(index);
  --free_;
}

void kv_block_pool::release(block_index index) {
  auto& b = blocks_[index];
  assert(b.users > 0);
  if (--b.users > 0) return;
  ++free_;
  if (b.holds) {
    link_newest(index);
  } else {
    unknown_.push_back(index);
  }
}

void kv_block_pool::release_all(std::span<const block_index> blocks) {
  for (auto at = blocks.rbegin(); at != blocks.rend(); ++at) release(*at);
}

void kv_block_pool::link_newest(block_index index) {
  blocks_[index].older = newest_;
  blocks_[index].newer = none;
  (newest_ == none ? oldest_ : blocks_[newest_].newer) = index;
  newest_ = index;
}

void kv_block_pool::unlink(block_index index) {
  const auto& b = blocks_[index];
  (b.older == none ? oldest_ : blocks_[b.older].newer) = b.newer;
  (b.newer == none ? newest_ : blocks_[b.newer].older) = b.older;
}

std::string kv_block_pool::find_inconsistency() const {
  std::uint32_t used = 0, known_blocks = 0, listed = 0;
  std::vector<std::uint64_t> prefixes{0};
  for (const auto& b : blocks_) {
    used += b.users > 0;
    known_blocks += b.holds.has_value();
    if (b.holds) prefixes.push_back(b.prefix.value);
  }
  std::ranges::sort(prefixes);
  for (block_index index = 0; index < size(); ++index) {
    const auto& b = blocks_[index];
    if (!b.holds) continue;
    const auto at = by_content_.find(*b.holds);
    if (at == by_content_.end() || at->second != index) return fmt::format("block {} is known but not found", index);
    const bool is_first = b.holds->before.value >= last_beginning_;
    if (!is_first && !std::ranges::binary_search(prefixes, b.holds->before.value)) {
      return fmt::format("block {} is known, but not what comes before it", index);
    }
  }
  for (auto index = oldest_; index != none; index = blocks_[index].newer) {
    ++listed;
    if (blocks_[index].users > 0 || !blocks_[index].holds) return fmt::format("block {} is not to be reused", index);
  }
  if (used != in_use()) return fmt::format("{} blocks have users and {} are counted", used, in_use());
  if (known_blocks != known()) return fmt::format("{} blocks are known and {} are counted", known_blocks, known());
  if (listed + unknown_.size() != free_) {
    return fmt::format("{} + {} blocks are listed as free and {} are counted", listed, unknown_.size(), free_);
  }
  return {};
}

}  // namespace troupe::router
