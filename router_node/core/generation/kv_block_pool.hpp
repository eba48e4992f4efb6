// The blocks of the key-value memory: who uses which, and which beginnings of texts ("prefixes") they hold. Pure
// bookkeeping by number, the memory itself is the trunk's. Single-threaded.
//
// A full block whose contents were committed may be published: it becomes known by its tokens and everything before
// them. Others that begin with the same tokens then use the same block. A prefix is identified by a number that is
// never used again, and a known block by (prefix before it, its own tokens), compared in full: two texts are never
// mistaken for each other, whatever their hashes.
//
//   unknown, free ── allocate ──> in use ── publish ──> known, in use ── last release ──> known, free
//        ^                          │ last release          ^                                │    │
//        └──────────────────────────┴───────────────────────┼───────── find_block ───────────┘    │
//                                                           └── (allocate: forgotten first) ──────┘
//
// Free blocks that know nothing are handed out first, then known ones, the one released longest ago first. Whoever uses
// a known block uses all blocks before it, and releases them last to first (release_all): so a prefix is always
// forgotten from its end.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/ids.hpp"
#include "common/limits.hpp"

namespace troupe::router {

using block_index = std::uint32_t;
using prefix_number = strong_number<struct prefix_tag>;  // {0}: nothing before

// How many blocks hold so many tokens.
[[nodiscard]] constexpr std::uint32_t blocks_for(std::uint64_t tokens) {
  return static_cast<std::uint32_t>((tokens + limits::kv_block_tokens - 1) / limits::kv_block_tokens);
}

struct known_block {
  block_index block{};
  prefix_number prefix;  // up to and including this block
};

class kv_block_pool {
 public:
  explicit kv_block_pool(std::uint32_t blocks);

  // A block of one's own. nullopt: all are in use.
  [[nodiscard]] std::optional<block_index> allocate();

  // What the first block of a text stands behind.
  [[nodiscard]] prefix_number root() const { return root_; }
  // Another model computes from now on: no block that is known by now is found from the new root.
  void renew_root() { root_ = unique_prefix(); }
  // A beginning that nothing else has.
  [[nodiscard]] prefix_number unique_prefix() { return prefix_number{--last_beginning_}; }

  // The block that holds `tokens` behind the prefix `before`; gains a user. nullopt: not known.
  // @pre tokens.size() == limits::kv_block_tokens
  [[nodiscard]] std::optional<known_block> find_block(prefix_number before, std::span<const token_number> tokens);

  // Makes the block known: it holds `tokens` behind `before`, and does so from now on. When another block is known for
  // that already, the user is moved over to it and the given block is released: use the returned one.
  // @pre the caller is the block's only user; tokens.size() == limits::kv_block_tokens
  [[nodiscard]] known_block publish(prefix_number before, std::span<const token_number> tokens, block_index block);

  // One user less. @pre users(block) > 0
  void release(block_index block);
  // Last to first.
  void release_all(std::span<const block_index> blocks);

  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(blocks_.size()); }
  [[nodiscard]] std::uint32_t in_use() const { return size() - free_; }
  [[nodiscard]] std::uint32_t free() const { return free_; }
  [[nodiscard]] std::uint32_t known() const { return static_cast<std::uint32_t>(by_content_.size()); }
  [[nodiscard]] std::uint32_t users(block_index block) const { return blocks_[block].users; }

  // Recounts everything; for tests. Empty: all is consistent.
  [[nodiscard]] std::string find_inconsistency() const;

 private:
  struct content {
    prefix_number before;
    std::array<token_number, limits::kv_block_tokens> tokens{};
    friend bool operator==(const content&, const content&) = default;
  };
  struct content_hash {
    std::size_t operator()(const content& c) const noexcept;
  };
  struct block_state {
    std::uint32_t users{};
    std::optional<content> holds;  // known blocks only
    prefix_number prefix;          // of a known block
    // Neighbours among the free known blocks, by age.
    block_index older{}, newer{};
  };

  static content content_of(prefix_number before, std::span<const token_number> tokens);
  void use(block_index index);
  void link_newest(block_index index);
  void unlink(block_index index);

  std::vector<block_state> blocks_;
  std::vector<block_index> unknown_;  // free and without contents
  std::unordered_map<content, block_index, content_hash> by_content_;
  std::uint32_t free_{};
  prefix_number root_;
  // Numbers of blocks' prefixes count up, those of beginnings down.
  std::uint64_t last_prefix_{};
  std::uint64_t last_beginning_{~std::uint64_t{0}};
  // The ends of the list of free known blocks; none when empty.
  block_index oldest_, newest_;
};

}  // namespace troupe::router
