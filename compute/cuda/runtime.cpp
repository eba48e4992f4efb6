// libtroupe_cuda.so: gpu_runtime on CUDA and cuBLAS. Links nothing of Troupe but plain headers.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <array>
#include <atomic>
#include <optional>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "compute/cuda/hopper_products.hpp"
#include "compute/cuda/kernels.hpp"
#include "compute/gpu_runtime.hpp"

namespace troupe::compute::cuda {
namespace {

error describe(cudaError_t code, const char* what) {
  return {code == cudaErrorMemoryAllocation ? errc::out_of_memory : errc::internal,
          fmt::format("{}: {} ({})", what, cudaGetErrorString(code), cudaGetErrorName(code))};
}

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

// Three lists of pointers that cuBLAS reads on the device, and where they are copied from.
struct pointer_table {
  std::byte* host{};
  std::byte* device{};
  std::size_t groups{};
};

class cuda_runtime final : public gpu_runtime {
 public:
  explicit cuda_runtime(int index) : index_(index) {}

  result<void> open() {
    note(cudaSetDevice(index_), "choosing the device");
    note(cudaStreamCreateWithFlags(&compute_.stream, cudaStreamNonBlocking), "making a stream");
    note(cudaStreamCreateWithFlags(&load_.stream, cudaStreamNonBlocking), "making a stream");
    if (compute_.trouble) return fail(*compute_.trouble);
    note(cublasCreate(&blas_), "starting cuBLAS");
    note(cublasSetStream(blas_, compute_.stream), "starting cuBLAS");
    hopper_ = hopper_products::open(index_);
    if (compute_.trouble) return fail(*compute_.trouble);
    return {};
  }

  ~cuda_runtime() override {
    static_cast<void>(cudaSetDevice(index_));
    for (auto& table : tables_) {
      static_cast<void>(cudaFreeHost(table.host));
      static_cast<void>(cudaFree(table.device));
    }
    if (blas_ != nullptr) static_cast<void>(cublasDestroy(blas_));
    for (auto* one : {&compute_, &load_}) {
      if (one->stream != nullptr) static_cast<void>(cudaStreamDestroy(one->stream));
    }
  }

  gpu_facts facts() const override {
    static_cast<void>(cudaSetDevice(index_));
    cudaDeviceProp properties{};
    int runtime = 0;
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
    static_cast<void>(cudaGetDeviceProperties(&properties, index_));
    static_cast<void>(cudaRuntimeGetVersion(&runtime));
    static_cast<void>(cudaMemGetInfo(&free_bytes, &total_bytes));
    return {.name = fmt::format("cuda:{}", index_),
            .description = fmt::format("{}, compute capability {}.{}, CUDA {}", properties.name, properties.major,
                                       properties.minor, version_text(runtime)),
            .total_bytes = total_bytes,
            .free_bytes = free_bytes};
  }

  result<std::byte*> allocate(std::size_t bytes) override {
    static_cast<void>(cudaSetDevice(index_));
    void* memory = nullptr;
    const auto code = cudaMalloc(&memory, bytes);
    if (code == cudaSuccess) return static_cast<std::byte*>(memory);
    if (code != cudaErrorMemoryAllocation) return fail_with(describe(code, "taking device memory"));
    static_cast<void>(cudaGetLastError());  // a refused allocation leaves the device usable
    return fail(errc::out_of_memory, fmt::format("{} bytes of device memory asked for, {} of {} are free ({})", bytes,
                                                 facts().free_bytes, facts().total_bytes, cudaGetErrorString(code)));
  }
  void release(std::byte* memory) override {
    static_cast<void>(cudaSetDevice(index_));
    static_cast<void>(cudaFree(memory));
  }
  result<std::byte*> allocate_host(std::size_t bytes) override {
    static_cast<void>(cudaSetDevice(index_));
    void* memory = nullptr;
    const auto code = cudaMallocHost(&memory, bytes);
    if (code == cudaSuccess) return static_cast<std::byte*>(memory);
    if (code != cudaErrorMemoryAllocation) return fail_with(describe(code, "taking pinned host memory"));
    static_cast<void>(cudaGetLastError());
    return fail(errc::out_of_memory,
                fmt::format("{} bytes of pinned host memory: {}", bytes, cudaGetErrorString(code)));
  }
  void release_host(std::byte* memory) override {
    static_cast<void>(cudaSetDevice(index_));
    static_cast<void>(cudaFreeHost(memory));
  }

  void upload(gpu_stream stream, std::byte* device, const std::byte* host, std::size_t bytes) override {
    copy(stream, device, host, bytes, cudaMemcpyHostToDevice);
  }
  void download(gpu_stream stream, std::byte* host, const std::byte* device, std::size_t bytes) override {
    copy(stream, host, device, bytes, cudaMemcpyDeviceToHost);
  }

  void multiply(const products_work& work) override {
    auto* const stream = begin_compute();
    if (hopper_ && hopper_->knows(work.form)) return note(hopper_->multiply(work, stream), "products");
    multiply_step_by_step(work, stream);
  }
  void combine(const combine_work& work) override {
    cuda::combine(work, hopper_ && hopper_->knows(work.form), begin_compute());
    note(cudaGetLastError(), "combining rows");
  }
  std::size_t scratch_bytes(const expert_form& form, std::size_t assignments) const override {
    if (hopper_ && hopper_->knows(form)) return hopper_products::scratch_bytes(form, assignments);
    return scratch_parts(form, assignments).end;
  }

  result<void> finish(gpu_stream which) override {
    static_cast<void>(cudaSetDevice(index_));
    auto& used = which == gpu_stream::compute ? compute_ : load_;
    const auto code = cudaStreamSynchronize(used.stream);
    if (code != cudaSuccess && !used.trouble) used.trouble = describe(code, "waiting for the device");
    const auto trouble = std::exchange(used.trouble, std::nullopt);
    if (trouble) return fail_with(*trouble);
    return {};
  }

  bool is_lost() const override { return is_lost_; }

 private:
  struct side {
    cudaStream_t stream{};
    std::optional<error> trouble;  // the first since the last finish
  };

  // A sticky error comes again from every call: it has cost the context and all memory in it.
  tl::unexpected<error> fail_with(error reason) {
    static_cast<void>(cudaGetLastError());
    if (cudaDeviceSynchronize() != cudaSuccess) is_lost_ = true;
    return fail(std::move(reason));
  }

  cudaStream_t begin_compute() {
    static_cast<void>(cudaSetDevice(index_));
    return compute_.stream;
  }
  void note(cudaError_t code, const char* what) {
    if (code != cudaSuccess && !compute_.trouble) compute_.trouble = describe(code, what);
  }
  void note(cublasStatus_t code, const char* what) {
    if (code == CUBLAS_STATUS_SUCCESS || compute_.trouble) return;
    compute_.trouble = error{code == CUBLAS_STATUS_ALLOC_FAILED ? errc::out_of_memory : errc::internal,
                             fmt::format("{}: {}", what, cublasGetStatusString(code))};
  }
  void copy(gpu_stream which, std::byte* to, const std::byte* from, std::size_t bytes, cudaMemcpyKind kind) {
    static_cast<void>(cudaSetDevice(index_));
    auto& used = which == gpu_stream::compute ? compute_ : load_;
    const auto code = cudaMemcpyAsync(to, from, bytes, kind, used.stream);
    if (code != cudaSuccess && !used.trouble) used.trouble = describe(code, "copying");
  }
  // Where x, the products and h lie in the scratch of multiply_step_by_step.
  struct scratch_parts {
    std::size_t products, h, end;

    scratch_parts(const expert_form& form, std::size_t assignments) {
      const std::size_t element = element_bytes(form.type);
      products = assignments * form.first_inputs * element;
      h = products + assignments * form.first_outputs * element;
      end = h + assignments * form.second_inputs * element;
    }
  };

  void multiply_step_by_step(const products_work& work, cudaStream_t stream);
  void multiply_groups(const products_work& work, std::uint64_t weights_offset, const std::byte* a,
                       std::uint32_t inputs, std::byte* c, std::uint32_t outputs);
  pointer_table* next_table(std::size_t groups);

  int index_;
  std::atomic<bool> is_lost_{false};
  side compute_;
  side load_;
  cublasHandle_t blas_{};
  std::unique_ptr<hopper_products> hopper_;  // nullptr: not such a card
  // A pass multiplies twice before it waits, so that each product has a table of its own.
  std::array<pointer_table, 2> tables_{};
  std::size_t next_table_{};
};

void cuda_runtime::multiply_step_by_step(const products_work& work, cudaStream_t stream) {
  const auto& form = work.form;
  const scratch_parts parts(form, work.assignments);
  auto* const x = work.scratch;
  auto* const products = work.scratch + parts.products;
  auto* const h = work.scratch + parts.h;
  gather(work, x, stream);
  note(cudaGetLastError(), "gathering rows");
  multiply_groups(work, 0, x, form.first_inputs, products, form.first_outputs);
  activate(work, products, h, stream);
  note(cudaGetLastError(), "activation");
  multiply_groups(work, form.second_offset, h, form.second_inputs, work.y, form.second_outputs);
}

// nullptr: no memory; noted.
pointer_table* cuda_runtime::next_table(std::size_t groups) {
  auto& table = tables_[next_table_++ % tables_.size()];
  if (table.groups >= groups) return &table;
  note(cudaStreamSynchronize(compute_.stream), "waiting for the device");
  static_cast<void>(cudaFreeHost(table.host));
  static_cast<void>(cudaFree(table.device));
  table = {};
  const auto bytes = 3 * groups * sizeof(void*);
  auto host = allocate_host(bytes);
  if (host) table.host = *host;
  auto device = allocate(bytes);
  if (device) table.device = *device;
  if (!host || !device) {
    if (!compute_.trouble) compute_.trouble = host ? device.error() : host.error();
    return nullptr;
  }
  table.groups = groups;
  return &table;
}

// c = a W^T for each group. cuBLAS counts in columns: a row-major [rows, n] is its column-major [n, rows], so
// c^T = W a^T, with W read transposed.
void cuda_runtime::multiply_groups(const products_work& work, std::uint64_t weights_offset, const std::byte* a,
                                   std::uint32_t inputs, std::byte* c, std::uint32_t outputs) {
  const std::size_t count = work.groups.size();
  auto* table = next_table(count);
  if (table == nullptr) return;
  const std::size_t element = element_bytes(work.form.type);
  const std::vector<cublasOperation_t> transposed(count, CUBLAS_OP_T);
  const std::vector<cublasOperation_t> plain(count, CUBLAS_OP_N);
  const std::vector<int> outputs_of(count, static_cast<int>(outputs));
  const std::vector<int> inputs_of(count, static_cast<int>(inputs));
  const std::vector<int> ones(count, 1);
  const std::vector<float> alpha(count, 1.0F);
  const std::vector<float> beta(count, 0.0F);
  std::vector<int> rows;
  rows.reserve(count);
  auto* pointers = reinterpret_cast<const void**>(table->host);
  for (std::size_t g = 0; g < count; ++g) {
    const auto& group = work.groups[g];
    rows.push_back(static_cast<int>(group.rows));
    pointers[g] = work.arena + group.slot * work.slot_bytes + weights_offset;
    pointers[count + g] = a + std::size_t{group.begin} * inputs * element;
    pointers[2 * count + g] = c + std::size_t{group.begin} * outputs * element;
  }
  copy(gpu_stream::compute, table->device, table->host, 3 * count * sizeof(void*), cudaMemcpyHostToDevice);
  const auto type = work.form.type == dtype::f32 ? CUDA_R_32F : CUDA_R_16BF;
  auto* const device = reinterpret_cast<void**>(table->device);
  note(cublasGemmGroupedBatchedEx(blas_, transposed.data(), plain.data(), outputs_of.data(), rows.data(),
                                  inputs_of.data(), alpha.data(), device, type, inputs_of.data(), device + count, type,
                                  inputs_of.data(), beta.data(), device + 2 * count, type, outputs_of.data(),
                                  static_cast<int>(count), ones.data(), CUBLAS_COMPUTE_32F),
       "grouped product");
}

result<std::unique_ptr<gpu_runtime>> open(std::uint32_t index) {
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  if (driver == 0) return fail(errc::unavailable, "this machine has no NVIDIA driver");
  int count = 0;
  const auto code = cudaGetDeviceCount(&count);
  if (code == cudaErrorInsufficientDriver) {
    return fail(errc::unavailable, fmt::format("the NVIDIA driver is too old: it knows CUDA {}, this plug-in needs {}",
                                               version_text(driver), version_text(runtime)));
  }
  if (code != cudaSuccess) return fail(errc::unavailable, describe(code, "looking for devices").message);
  if (index >= static_cast<std::uint32_t>(count)) {
    return fail(errc::unavailable, fmt::format("this machine has {} CUDA device{}", count, count == 1 ? "" : "s"));
  }
  auto made = std::make_unique<cuda_runtime>(static_cast<int>(index));
  if (auto fine = made->open(); !fine) return fail(fine.error());
  return made;
}

}  // namespace
}  // namespace troupe::compute::cuda

extern "C" {

[[gnu::visibility("default")]] std::uint32_t troupe_gpu_runtime_version() {
  return troupe::compute::gpu_runtime_version;
}

[[gnu::visibility("default")]] void troupe_open_gpu_runtime(
    std::uint32_t index, troupe::result<std::unique_ptr<troupe::compute::gpu_runtime>>* opened) {
  *opened = troupe::compute::cuda::open(index);
}

}  // extern "C"
