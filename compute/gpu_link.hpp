// Device memory from one GPU to another, or to the same one, beside the streams that serve: what NCCL does for nodes
// whose GPUs reach each other. The waiting and giving up is here, the library behind gpu_link_backend.
//
//            connect                 exchange
//   (made) ───────────> idle <───────────────────> moving
//              │          │ close                    │       an error, or no end in time, anywhere:
//              v          v                          v       aborted once, and nothing works any more
//            broken     closed                     broken
//
// Thread rule: a link belongs to one thread, which must not be one that serves: every call blocks, at most for
// limits::gpu_link_timeout.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/error.hpp"

namespace troupe::compute {

// One direction of an exchange: device memory, and who has the other end (itself is allowed).
struct gpu_move {
  enum class direction : std::uint8_t { send, receive };
  direction way{direction::send};
  std::byte* memory{};
  std::size_t bytes{};
  std::uint32_t peer{};  // rank
};

// Implemented by the plug-in libtroupe_nccl.so and by the tests. No call but the destructor may block.
class gpu_link_backend {
 public:
  virtual ~gpu_link_backend() = default;
  gpu_link_backend(const gpu_link_backend&) = delete;
  gpu_link_backend& operator=(const gpu_link_backend&) = delete;

  // What all ends of a new link are connected with; made by one of them.
  [[nodiscard]] virtual result<std::vector<std::byte>> make_key() = 0;

  // Each starts something that has ended when is_done says so; one thing at a time.
  [[nodiscard]] virtual result<void> begin_connect(std::span<const std::byte> key, std::uint32_t rank,
                                                   std::uint32_t ranks) = 0;
  [[nodiscard]] virtual result<void> begin_exchange(std::span<const gpu_move> moves) = 0;
  [[nodiscard]] virtual result<void> begin_close() = 0;
  // An error: what was begun has failed, and nothing else will work.
  [[nodiscard]] virtual result<bool> is_done() = 0;
  // Ends what is under way wherever it stands. Nothing is called afterwards.
  virtual void abort() = 0;

 protected:
  gpu_link_backend() = default;
};

struct gpu_link_clock {
  std::function<std::chrono::steady_clock::time_point()> now;
  std::function<void()> pause;      // between two looks
  std::function<bool()> cancelled;  // asked at each look; true: give up at once
};
// The machine's, with pauses of 100 us. `cancelled` may be empty.
[[nodiscard]] gpu_link_clock steady_link_clock(std::function<bool()> cancelled = {});

class gpu_link {
 public:
  // Blocks until all `ranks` ends have called it with the same key. timeout, cancelled, or the backend's error.
  [[nodiscard]] static result<gpu_link> connect(std::unique_ptr<gpu_link_backend> backend,
                                                std::span<const std::byte> key, std::uint32_t rank, std::uint32_t ranks,
                                                gpu_link_clock clock = steady_link_clock());
  gpu_link(gpu_link&&) noexcept = default;
  gpu_link& operator=(gpu_link&&) = delete;
  // Aborts unless it was closed.
  ~gpu_link();

  // Returns when all moves of this end are over: what was received may be read. timeout, cancelled; unavailable after
  // an earlier error; else the backend's own. The other ends see an error or a timeout, too.
  [[nodiscard]] result<void> exchange(std::span<const gpu_move> moves);
  // In order: waits until the other ends have what was sent.
  [[nodiscard]] result<void> close();

 private:
  gpu_link(std::unique_ptr<gpu_link_backend> backend, gpu_link_clock clock);
  // Waits for what `begun` says was begun.
  [[nodiscard]] result<void> finish(result<void> begun, const char* what);

  std::unique_ptr<gpu_link_backend> backend_;  // none: closed, broken or moved from
  gpu_link_clock clock_;
  std::string broken_by_;
};

// Raised with every change of gpu_link_backend: a plug-in of another build is refused.
inline constexpr std::uint32_t gpu_link_version = 1;

// Loads `plugin` (libtroupe_nccl.so) for the CUDA device `index`; the plug-in's two functions:
//   extern "C" std::uint32_t troupe_gpu_link_version();
//   extern "C" void troupe_open_gpu_link(std::uint32_t index, result<std::unique_ptr<gpu_link_backend>>* opened);
// unavailable with the reason, as open_gpu_runtime.
using gpu_link_version_function = std::uint32_t (*)();
using open_gpu_link_function = void (*)(std::uint32_t index, result<std::unique_ptr<gpu_link_backend>>* opened);
[[nodiscard]] result<std::unique_ptr<gpu_link_backend>> open_gpu_link(const std::string& plugin, std::uint32_t index);

}  // namespace troupe::compute
