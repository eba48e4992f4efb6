// What a GPU has to do for gpu_device, and nothing that knows what an expert host is. Implemented by the plug-in
// libtroupe_cuda.so (compute/cuda) and, in plain loops, by the tests.
//
// Thread rule: the work of one stream comes from one thread at a time; `load` and `compute` may belong to two threads.
// What is asked for runs in the order of its stream, later; buffers must live until `finish`, which reports the first
// error since the last `finish` of that stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/error.hpp"
#include "common/tensor.hpp"
#include "model/description.hpp"

namespace troupe::compute {

enum class gpu_stream : std::uint8_t { compute, load };

struct gpu_facts {
  std::string name;         // "cuda:0"
  std::string description;  // "NVIDIA H100, compute capability 9.0, CUDA 13.0"
  std::uint64_t total_bytes{};
  std::uint64_t free_bytes{};  // at the time of asking
};

// Where the parts of an expert lie in its slot: the `rows` form of packing.hpp. Offsets are bytes from the slot's
// begin. Matrices are [outputs, inputs], both padded; of `first`, gate and up come in turn, 64 outputs of each, when
// gated.
struct expert_form {
  dtype type{dtype::bf16};  // f32 or bf16: of weights, rows and everything between
  model::activation act{model::activation::swiglu};
  bool is_gated{true};
  bool has_bias{};
  std::uint32_t hidden{};
  std::uint32_t width{};
  std::uint32_t first_inputs{};
  std::uint32_t first_outputs{};
  std::uint32_t second_inputs{};
  std::uint32_t second_outputs{};
  std::uint64_t second_offset{};
  std::uint64_t gate_bias_offset{};  // biases are f32
  std::uint64_t up_bias_offset{};
  std::uint64_t down_bias_offset{};
};

// Pointers below are device memory unless they say host. A is the number of assignments: pairs of a row and an expert,
// all of one expert side by side.

// The assignments [begin, begin + rows) of one expert.
struct expert_rows {
  std::uint32_t slot{};
  std::uint32_t begin{};
  std::uint32_t rows{};  // at least 1
};

// y[a] = down act(gate and up of rows[row_of[a]]), the down bias left out: sums in f32, rounded to the type after each
// of the three.
struct products_work {
  expert_form form;
  const std::byte* arena{};  // [slots], slot_bytes apart
  std::uint64_t slot_bytes{};
  std::uint32_t slots{};
  std::span<const expert_rows> groups;      // host; copied before the call returns
  const std::byte* rows{};                  // [R, hidden]
  const std::uint32_t* row_of{};            // [A]
  const std::uint32_t* group_of{};          // [A]
  const std::byte* const* slot_of_group{};  // [G]
  std::uint32_t assignments{};
  std::byte* y{};        // [A, second_outputs]
  std::byte* scratch{};  // scratch_bytes(form, A)
};

// out[r] = sum over k in [first_of[r], first_of[r + 1]) of weight[a] * (y[a] + bias), a = by_row[k], in that order, in
// f32; and norm[a] = |weight[a]| x euclidean norm of what is in the brackets.
struct combine_work {
  expert_form form;
  const std::byte* y{};                     // [A, second_outputs]
  const std::uint32_t* first_of{};          // [R + 1]
  const std::uint32_t* by_row{};            // [A]
  const float* weight{};                    // [A]
  const std::uint32_t* group_of{};          // [A]
  const std::byte* const* slot_of_group{};  // [G]
  std::byte* out{};                         // [R, hidden]
  float* norm{};                            // [A]
  std::uint32_t rows{};
  std::uint32_t assignments{};
  std::uint32_t per_row_max{};  // assignments of one row
};

class gpu_runtime {
 public:
  virtual ~gpu_runtime() = default;
  gpu_runtime(const gpu_runtime&) = delete;
  gpu_runtime& operator=(const gpu_runtime&) = delete;

  [[nodiscard]] virtual gpu_facts facts() const = 0;

  // Device memory, aligned to 256 bytes. out_of_memory with what was asked for and what is free.
  [[nodiscard]] virtual result<std::byte*> allocate(std::size_t bytes) = 0;
  virtual void release(std::byte* memory) = 0;  // nullptr: nothing
  // Host memory that the device reads and writes by itself (pinned).
  [[nodiscard]] virtual result<std::byte*> allocate_host(std::size_t bytes) = 0;
  virtual void release_host(std::byte* memory) = 0;

  virtual void upload(gpu_stream stream, std::byte* device, const std::byte* host, std::size_t bytes) = 0;
  virtual void download(gpu_stream stream, std::byte* host, const std::byte* device, std::size_t bytes) = 0;

  // On the compute stream.
  virtual void multiply(const products_work& work) = 0;
  virtual void combine(const combine_work& work) = 0;
  // What `multiply` needs beside y for that many assignments; grows with them. Any thread.
  [[nodiscard]] virtual std::size_t scratch_bytes(const expert_form& form, std::size_t assignments) const = 0;

  // Waits until the stream is empty. internal (or out_of_memory) with the device's own words.
  [[nodiscard]] virtual result<void> finish(gpu_stream stream) = 0;

  // The device refuses everything from now on, in this process, after an error that it reported (CUDA: a sticky one).
  // Any thread. An allocation that failed is no such error.
  [[nodiscard]] virtual bool is_lost() const = 0;

 protected:
  gpu_runtime() = default;
};

// Raised with every change of this header: a plug-in of another build is refused.
inline constexpr std::uint32_t gpu_runtime_version = 3;

// The plug-in's two functions, by these names.
//   extern "C" std::uint32_t troupe_gpu_runtime_version();
//   extern "C" void troupe_open_gpu_runtime(std::uint32_t index, result<std::unique_ptr<gpu_runtime>>* opened);
using gpu_runtime_version_function = std::uint32_t (*)();
using open_gpu_runtime_function = void (*)(std::uint32_t index, result<std::unique_ptr<gpu_runtime>>* opened);

// Loads `plugin` (a file) and opens its device `index`. It stays loaded until the process ends. unavailable with the
// reason: no such file, a library of CUDA is missing, another build, no driver, no such device.
[[nodiscard]] result<std::unique_ptr<gpu_runtime>> open_gpu_runtime(const std::string& plugin, std::uint32_t index);

}  // namespace troupe::compute
