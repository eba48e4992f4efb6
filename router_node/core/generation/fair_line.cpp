#include "router_node/core/generation/fair_line.hpp"

#include <algorithm>
#include <cassert>

namespace troupe::router {

void fair_line::push(const std::string& client, sequence_id id, std::uint64_t tokens) {
  auto [at, is_new] = by_client_.try_emplace(client);
  if (is_new) at->second = round_.insert(round_.end(), client_queue{client, {}, 0});
  at->second->waiting.push_back({id, tokens});
  at->second->tokens += tokens;
  tokens_ += tokens;
  ++size_;
}

std::optional<fair_line::position> fair_line::take(const std::string& client, sequence_id id) {
  const auto at = by_client_.find(client);
  assert(at != by_client_.end());
  auto& q = *at->second;
  const auto waiting = std::ranges::find(q.waiting, id, &entry::id);
  assert(waiting != q.waiting.end());
  q.tokens -= waiting->tokens;
  tokens_ -= waiting->tokens;
  --size_;
  q.waiting.erase(waiting);
  if (!q.waiting.empty()) return at->second;
  round_.erase(at->second);
  by_client_.erase(at);
  return std::nullopt;
}

void fair_line::serve(const std::string& client, sequence_id id) {
  if (const auto left = take(client, id)) round_.splice(round_.end(), round_, *left);
}

void fair_line::remove(const std::string& client, sequence_id id) { (void)take(client, id); }

std::size_t fair_line::size_of(const std::string& client) const {
  const auto at = by_client_.find(client);
  return at == by_client_.end() ? 0 : at->second->waiting.size();
}

std::uint64_t fair_line::tokens_of(const std::string& client) const {
  const auto at = by_client_.find(client);
  return at == by_client_.end() ? 0 : at->second->tokens;
}

}  // namespace troupe::router
