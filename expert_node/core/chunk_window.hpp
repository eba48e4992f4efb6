// Which chunks of a bundle are here, which are asked for, which come next.
//
// A few requests are outstanding at a time, so that the receiver decides the pace. A chunk that does not come in time
// is asked for again. What has arrived stays when the source changes: the next one goes on where the last one stopped.
// Time comes in as an argument. Belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/limits.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

struct chunk_range {
  std::uint64_t offset{};
  std::uint64_t bytes{};
  friend bool operator==(const chunk_range&, const chunk_range&) = default;
};

struct chunk_options {
  std::uint64_t chunk_bytes{limits::peer_chunk_bytes};
  std::size_t outstanding_max{limits::peer_chunks_outstanding};
  std::chrono::milliseconds timeout{limits::peer_chunk_timeout};
};

class chunk_window {
 public:
  explicit chunk_window(std::uint64_t total_bytes, chunk_options options = {});

  // The next chunk to ask for now, counted as asked for; nullopt when the window is full or nothing is missing.
  [[nodiscard]] std::optional<chunk_range> next(time_point now);
  // False when the range is no chunk that was asked for and is still missing: a repeated or foreign answer.
  [[nodiscard]] bool received(const chunk_range& chunk);
  // Chunks whose time is over will be asked for again; returns how many there were.
  std::size_t expire(time_point now);
  // A new source: nothing is asked for any more, what is here stays.
  void restart();
  // Nothing is here any more, either.
  void discard();

  [[nodiscard]] bool complete() const { return missing_ == 0; }
  [[nodiscard]] std::size_t missing() const { return missing_; }
  [[nodiscard]] std::size_t arrived() const { return chunks_.size() - missing_; }
  // When expire() has something to do; nullopt when nothing is outstanding.
  [[nodiscard]] std::optional<time_point> deadline() const;

 private:
  enum class chunk_state : std::uint8_t { missing, asked, here };
  struct chunk {
    chunk_state state{chunk_state::missing};
    time_point deadline;
  };

  [[nodiscard]] chunk_range range_of(std::size_t index) const;

  std::uint64_t total_bytes_;
  chunk_options options_;
  std::size_t missing_;  // not here: missing or asked
  std::size_t outstanding_{};
  std::vector<chunk> chunks_;
};

}  // namespace troupe::expert
