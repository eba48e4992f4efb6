// Sequences that wait for a place, fair between clients: clients take turns, and each one's sequences are first come,
// first served. A client that comes back after its line was empty goes to the end of the round, so with c clients
// waiting every one is served once in c turns, however many sequences the others have put in. Single-threaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <optional>
#include <string>
#include <unordered_map>

#include "router_node/core/generation/step_plan.hpp"

namespace troupe::router {

class fair_line {
 public:
  void push(const std::string& client, sequence_id id, std::uint64_t tokens);

  // Whose turn it is, passing over clients for which `may_run(client)` is false; they keep their turn.
  template <class MayRun>
  [[nodiscard]] std::optional<sequence_id> next(MayRun&& may_run) const {
    for (const auto& q : round_) {
      if (may_run(q.client)) return q.waiting.front().id;
    }
    return std::nullopt;
  }

  // The sequence leaves the line because it is served: its client's turn is over.
  void serve(const std::string& client, sequence_id id);
  // The sequence leaves the line unserved.
  void remove(const std::string& client, sequence_id id);

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] std::size_t size_of(const std::string& client) const;
  [[nodiscard]] std::uint64_t tokens_of(const std::string& client) const;

 private:
  struct entry {
    sequence_id id;
    std::uint64_t tokens{};
  };
  struct client_queue {
    std::string client;
    std::deque<entry> waiting;  // never empty
    std::uint64_t tokens{};
  };
  using position = std::list<client_queue>::iterator;

  // Takes the entry out. The client's queue, nullopt when it is empty now and therefore gone.
  std::optional<position> take(const std::string& client, sequence_id id);

  std::list<client_queue> round_;
  std::unordered_map<std::string, position> by_client_;
  std::size_t size_{};
  std::uint64_t tokens_{};
};

}  // namespace troupe::router
