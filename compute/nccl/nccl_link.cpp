// libtroupe_nccl.so: gpu_link_backend on NCCL. Communicators do not block, and the stream is the link's own, so that
// nothing here waits for the device that serves, nor makes it wait. Links nothing of Troupe but plain headers.
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "compute/gpu_link.hpp"

namespace troupe::compute::nccl {
namespace {

// Thread blocks of the card that a transfer may take from the kernels that serve.
constexpr int blocks_max = 4;

tl::unexpected<error> cuda_failure(cudaError_t code, const char* what) {
  return fail(errc::unavailable, fmt::format("{}: {} ({})", what, cudaGetErrorString(code), cudaGetErrorName(code)));
}

class nccl_link final : public gpu_link_backend {
 public:
  explicit nccl_link(int index) : index_(index) {}
  ~nccl_link() override {
    abort();
    static_cast<void>(cudaSetDevice(index_));
    if (moved_ != nullptr) static_cast<void>(cudaEventDestroy(moved_));
    if (stream_ != nullptr) static_cast<void>(cudaStreamDestroy(stream_));
  }

  result<void> open() {
    if (auto code = cudaSetDevice(index_); code != cudaSuccess) return cuda_failure(code, "choosing the device");
    if (auto code = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); code != cudaSuccess) {
      return cuda_failure(code, "making a stream");
    }
    if (auto code = cudaEventCreateWithFlags(&moved_, cudaEventDisableTiming); code != cudaSuccess) {
      return cuda_failure(code, "making an event");
    }
    return {};
  }

  result<std::vector<std::byte>> make_key() override {
    ncclUniqueId id{};
    if (auto fine = check(ncclGetUniqueId(&id), "making a key"); !fine) return fail(fine.error());
    const auto* bytes = reinterpret_cast<const std::byte*>(&id);
    return std::vector<std::byte>(bytes, bytes + sizeof id);
  }

  result<void> begin_connect(std::span<const std::byte> key, std::uint32_t rank, std::uint32_t ranks) override {
    ncclUniqueId id{};
    if (key.size() != sizeof id) {
      return fail(errc::invalid_request, fmt::format("a key of NCCL has {} bytes, this one {}", sizeof id, key.size()));
    }
    std::memcpy(&id, key.data(), sizeof id);
    static_cast<void>(cudaSetDevice(index_));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = blocks_max;
    step_ = step::library;
    return check(ncclCommInitRankConfig(&communicator_, static_cast<int>(ranks), id, static_cast<int>(rank), &config),
                 "connecting");
  }

  result<void> begin_exchange(std::span<const gpu_move> moves) override {
    static_cast<void>(cudaSetDevice(index_));
    if (auto fine = check(ncclGroupStart(), "beginning a group"); !fine) return fine;
    result<void> queued;
    for (const auto& move : moves) {
      if (queued) queued = queue(move);
    }
    // The group ends whatever happened inside: it belongs to the thread.
    auto ended = check(ncclGroupEnd(), "ending a group");
    if (!queued) return queued;
    step_ = step::launching;
    return ended;
  }

  result<void> begin_close() override {
    step_ = step::closing;
    return check(ncclCommFinalize(communicator_), "closing");
  }

  result<bool> is_done() override {
    static_cast<void>(cudaSetDevice(index_));
    auto state = ncclSuccess;
    if (auto fine = check(ncclCommGetAsyncError(communicator_, &state), "asking for errors"); !fine) {
      return fail(fine.error());
    }
    if (auto fine = check(state, "working"); !fine) return fail(fine.error());
    if (state == ncclInProgress) return false;
    switch (step_) {
      case step::launching:
        // Only now are all kernels on the stream.
        if (auto code = cudaEventRecord(moved_, stream_); code != cudaSuccess) return cuda_failure(code, "waiting");
        step_ = step::moving;
        [[fallthrough]];
      case step::moving: {
        const auto code = cudaEventQuery(moved_);
        if (code == cudaErrorNotReady) return false;
        if (code != cudaSuccess) return cuda_failure(code, "moving");
        return true;
      }
      case step::closing:
        if (auto fine = check(ncclCommDestroy(std::exchange(communicator_, nullptr)), "closing"); !fine) {
          return fail(fine.error());
        }
        return true;
      case step::library:
        break;
    }
    return true;
  }

  void abort() override {
    if (communicator_ == nullptr) return;
    static_cast<void>(cudaSetDevice(index_));
    static_cast<void>(ncclCommAbort(std::exchange(communicator_, nullptr)));
  }

 private:
  // What is_done looks at: NCCL alone, or the stream as well.
  enum class step : std::uint8_t { library, launching, moving, closing };

  result<void> check(ncclResult_t code, const char* what) {
    if (code == ncclSuccess || code == ncclInProgress) return {};
    const auto* last = ncclGetLastError(communicator_);
    return fail(errc::unavailable,
                fmt::format("NCCL, {}: {} ({})", what, ncclGetErrorString(code), last == nullptr ? "" : last));
  }
  result<void> queue(const gpu_move& move) {
    const auto peer = static_cast<int>(move.peer);
    return move.way == gpu_move::direction::send
               ? check(ncclSend(move.memory, move.bytes, ncclUint8, peer, communicator_, stream_), "sending")
               : check(ncclRecv(move.memory, move.bytes, ncclUint8, peer, communicator_, stream_), "receiving");
  }

  int index_;
  step step_{step::library};
  cudaStream_t stream_{};
  cudaEvent_t moved_{};
  ncclComm_t communicator_{};
};

result<std::unique_ptr<gpu_link_backend>> open(std::uint32_t index) {
  int driver = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  if (driver == 0) return fail(errc::unavailable, "this machine has no NVIDIA driver");
  auto made = std::make_unique<nccl_link>(static_cast<int>(index));
  if (auto fine = made->open(); !fine) return fail(fine.error());
  return made;
}

}  // namespace
}  // namespace troupe::compute::nccl

extern "C" {

[[gnu::visibility("default")]] std::uint32_t troupe_gpu_link_version() { return troupe::compute::gpu_link_version; }

[[gnu::visibility("default")]] void troupe_open_gpu_link(
    std::uint32_t index, troupe::result<std::unique_ptr<troupe::compute::gpu_link_backend>>* opened) {
  *opened = troupe::compute::nccl::open(index);
}

}  // extern "C"
