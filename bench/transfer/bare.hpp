// A transfer by ZeroMQ alone, to compare with: one request over a DEALER-ROUTER pair, the bytes come back in chunks, as
// fast as ZeroMQ takes them. No credits, no checksums, nothing is copied by either side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "common/wire/keys.hpp"

namespace troupe::bench {

// The side that has the bytes. A thread of its own answers each request with all of them.
class bare_source {
 public:
  // `keys`: CURVE, on TCP. `bytes` must outlive this. Throws std::runtime_error when the address is taken.
  bare_source(const std::string& address, std::span<const std::byte> bytes, std::size_t chunk_bytes,
              const std::optional<wire::key_pair>& keys);
  ~bare_source();
  bare_source(const bare_source&) = delete;
  bare_source& operator=(const bare_source&) = delete;
  // Where it is bound.
  [[nodiscard]] const std::string& address() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

// The side that wants them; its connection stays. Belongs to one thread.
class bare_sink {
 public:
  // `source_key`: the other side's public key. Throws std::runtime_error.
  bare_sink(const std::string& address, const std::optional<std::string>& source_key);
  ~bare_sink();
  bare_sink(const bare_sink&) = delete;
  bare_sink& operator=(const bare_sink&) = delete;
  // Asks once and waits for everything; returns how many bytes came. Throws std::runtime_error after ten seconds.
  std::uint64_t fetch(std::uint64_t expected_bytes);

 private:
  void* context_;
  void* socket_;
};

}  // namespace troupe::bench
