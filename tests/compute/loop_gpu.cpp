#include "tests/compute/loop_gpu.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "compute/reference_math.hpp"

namespace troupe::compute::test {
namespace {

float read(dtype type, const std::byte* values, std::size_t index) {
  float value = 0;
  convert(type, values + index * bytes_per_element(type), dtype::f32, reinterpret_cast<std::byte*>(&value), 1);
  return value;
}

void write(dtype type, std::byte* values, std::size_t index, float value) {
  convert(dtype::f32, reinterpret_cast<const std::byte*>(&value), type, values + index * bytes_per_element(type), 1);
}

float bias_at(const std::byte* slot, std::uint64_t offset, std::size_t index) {
  float value = 0;
  std::memcpy(&value, slot + offset + index * sizeof value, sizeof value);
  return value;
}

class loop_gpu final : public gpu_runtime {
 public:
  explicit loop_gpu(std::shared_ptr<loop_gpu_state> state) : state_(std::move(state)) {}

  gpu_facts facts() const override {
    return {.name = "loops:0",
            .description = "plain loops",
            .total_bytes = state_->memory_max,
            .free_bytes = state_->memory_max - state_->allocated};
  }

  result<std::byte*> allocate(std::size_t bytes) override {
    std::lock_guard lock{state_->memory};
    if (state_->allocated + bytes > state_->memory_max) {
      return fail(errc::out_of_memory,
                  fmt::format("{} bytes asked for, {} free", bytes, state_->memory_max - state_->allocated));
    }
    return keep(bytes, state_->allocated);
  }
  result<std::byte*> allocate_host(std::size_t bytes) override {
    std::lock_guard lock{state_->memory};
    return keep(bytes, state_->host_allocated);
  }
  void release(std::byte* memory) override {
    std::lock_guard lock{state_->memory};
    drop(memory, state_->allocated);
  }
  void release_host(std::byte* memory) override {
    std::lock_guard lock{state_->memory};
    drop(memory, state_->host_allocated);
  }

  void upload(gpu_stream, std::byte* device, const std::byte* host, std::size_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void download(gpu_stream, std::byte* host, const std::byte* device, std::size_t bytes) override {
    std::memcpy(host, device, bytes);
  }

  void gather(const gather_work& work) override {
    ++state_->launches;
    for (std::size_t a = 0; a < work.assignments; ++a) {
      for (std::size_t c = 0; c < work.stride; ++c) {
        const auto value = c < work.hidden ? read(work.type, work.rows, work.row_of[a] * work.hidden + c) : 0.0F;
        write(work.type, work.x, a * work.stride + c, value);
      }
    }
  }

  void multiply(const grouped_product& work) override {
    ++state_->launches;
    ++state_->multiplications;
    for (const auto& group : work.groups) {
      for (std::size_t r = 0; r < group.rows; ++r) {
        for (std::size_t o = 0; o < work.outputs; ++o) {
          double sum = 0;
          for (std::size_t i = 0; i < work.inputs; ++i) {
            sum += double{read(work.type, group.a, r * work.inputs + i)} *
                   read(work.type, group.weights, o * work.inputs + i);
          }
          write(work.type, group.c, r * work.outputs + o, static_cast<float>(sum));
        }
      }
    }
  }

  void activate(const activation_work& work) override {
    ++state_->launches;
    const bool gated = model::is_gated(work.act);
    const std::uint32_t part = gated ? work.first_outputs / 2 : work.first_outputs;
    for (std::size_t a = 0; a < work.assignments; ++a) {
      const auto* slot = work.slots[work.group_of[a]];
      for (std::uint32_t o = 0; o < work.stride; ++o) {
        float h = 0;
        if (o < work.width) {
          const std::uint32_t begin = o / 64 * 64;
          const std::uint32_t block = std::min(64U, part - begin);
          const auto at = a * work.first_outputs + (gated ? 2 * begin : begin) + (o - begin);
          double first = read(work.type, work.products, at);
          double up = gated ? read(work.type, work.products, at + block) : 0.0;
          if (work.has_bias) {
            first += bias_at(slot, gated ? work.gate_bias_offset : work.up_bias_offset, o);
            if (gated) up += bias_at(slot, work.up_bias_offset, o);
          }
          h = static_cast<float>(reference_activation(work.act, first, up));
        }
        write(work.type, work.h, a * work.stride + o, h);
      }
    }
  }

  void combine(const combine_work& work) override {
    ++state_->launches;
    const auto output = [&](std::size_t a, std::size_t c) {
      const auto bias = work.has_bias ? bias_at(work.slots[work.group_of[a]], work.down_bias_offset, c) : 0.0F;
      return read(work.type, work.y, a * work.stride + c) + bias;
    };
    for (std::size_t r = 0; r < work.rows; ++r) {
      for (std::size_t c = 0; c < work.hidden; ++c) {
        float sum = 0;
        for (auto k = work.first_of[r]; k < work.first_of[r + 1]; ++k) {
          sum += work.weight[work.by_row[k]] * output(work.by_row[k], c);
        }
        write(work.type, work.out, r * work.hidden + c, sum);
      }
    }
    for (std::size_t a = 0; a < work.assignments; ++a) {
      double squares = 0;
      for (std::size_t c = 0; c < work.hidden; ++c) squares += double{output(a, c)} * output(a, c);
      work.norm[a] = static_cast<float>(std::abs(work.weight[a]) * std::sqrt(squares));
    }
  }

  result<void> finish(gpu_stream stream) override {
    if (stream == gpu_stream::compute && state_->breaks && state_->breaks()) state_->is_lost = true;
    if (state_->is_lost) return fail(errc::internal, "the loops were told to be lost");
    if (stream == gpu_stream::load || !std::exchange(state_->fails, false)) return {};
    return fail(errc::internal, "the loops were told to fail");
  }
  bool is_lost() const override { return state_->is_lost; }

 private:
  // Fresh memory is full of NaN: what was never written must not be read.
  result<std::byte*> keep(std::size_t bytes, std::size_t& counter) {
    counter += bytes;
    auto& block = blocks_.emplace_back(bytes, std::byte{0xff});
    return block.data();
  }
  void drop(const std::byte* memory, std::size_t& counter) {
    const auto at = std::ranges::find_if(blocks_, [&](const auto& block) { return block.data() == memory; });
    if (memory == nullptr || at == blocks_.end()) return;
    counter -= at->size();
    blocks_.erase(at);
  }

  std::shared_ptr<loop_gpu_state> state_;
  std::vector<std::vector<std::byte>> blocks_;
};

}  // namespace

std::unique_ptr<gpu_runtime> make_loop_gpu(std::shared_ptr<loop_gpu_state> state) {
  return std::make_unique<loop_gpu>(std::move(state));
}

}  // namespace troupe::compute::test
