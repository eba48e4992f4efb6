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

  void multiply(const products_work& work) override {
    ++state_->launches;
    ++state_->multiplications;
    const auto& form = work.form;
    auto* const x = work.scratch;
    auto* const products = x + bytes_of(form, work.assignments, form.first_inputs);
    auto* const h = products + bytes_of(form, work.assignments, form.first_outputs);
    gather(work, x);
    for (const auto& group : work.groups) {
      const auto* slot = work.arena + group.slot * work.slot_bytes;
      multiply_rows(form.type, group, slot, x, form.first_inputs, products, form.first_outputs);
      activate(form, group, slot, products, h);
      multiply_rows(form.type, group, slot + form.second_offset, h, form.second_inputs, work.y, form.second_outputs);
    }
  }
  std::size_t scratch_bytes(const expert_form& form, std::size_t assignments) const override {
    return bytes_of(form, assignments, form.first_inputs + form.first_outputs + form.second_inputs);
  }

  void combine(const combine_work& work) override {
    ++state_->launches;
    const auto& form = work.form;
    const auto output = [&](std::size_t a, std::size_t c) {
      const auto bias = form.has_bias ? bias_at(work.slot_of_group[work.group_of[a]], form.down_bias_offset, c) : 0.0F;
      return read(form.type, work.y, a * form.second_outputs + c) + bias;
    };
    for (std::size_t r = 0; r < work.rows; ++r) {
      for (std::size_t c = 0; c < form.hidden; ++c) {
        float sum = 0;
        for (auto k = work.first_of[r]; k < work.first_of[r + 1]; ++k) {
          sum += work.weight[work.by_row[k]] * output(work.by_row[k], c);
        }
        write(form.type, work.out, r * form.hidden + c, sum);
      }
    }
    for (std::size_t a = 0; a < work.assignments; ++a) {
      double squares = 0;
      for (std::size_t c = 0; c < form.hidden; ++c) squares += double{output(a, c)} * output(a, c);
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
  static std::size_t bytes_of(const expert_form& form, std::size_t rows, std::size_t columns) {
    return rows * columns * bytes_per_element(form.type);
  }
  static void gather(const products_work& work, std::byte* x) {
    const auto& form = work.form;
    for (std::size_t a = 0; a < work.assignments; ++a) {
      for (std::size_t c = 0; c < form.first_inputs; ++c) {
        const auto value = c < form.hidden ? read(form.type, work.rows, work.row_of[a] * form.hidden + c) : 0.0F;
        write(form.type, x, a * form.first_inputs + c, value);
      }
    }
  }
  // c = a W^T
  static void multiply_rows(dtype type, const expert_rows& group, const std::byte* weights, const std::byte* a,
                            std::size_t inputs, std::byte* c, std::size_t outputs) {
    for (std::size_t row = group.begin; row < group.begin + group.rows; ++row) {
      for (std::size_t o = 0; o < outputs; ++o) {
        double sum = 0;
        for (std::size_t i = 0; i < inputs; ++i) {
          sum += double{read(type, a, row * inputs + i)} * read(type, weights, o * inputs + i);
        }
        write(type, c, row * outputs + o, static_cast<float>(sum));
      }
    }
  }
  static void activate(const expert_form& form, const expert_rows& group, const std::byte* slot,
                       const std::byte* products, std::byte* h) {
    const std::uint32_t part = form.is_gated ? form.first_outputs / 2 : form.first_outputs;
    for (std::size_t a = group.begin; a < group.begin + group.rows; ++a) {
      for (std::uint32_t o = 0; o < form.second_inputs; ++o) {
        float value = 0;
        if (o < form.width) {
          const std::uint32_t begin = o / 64 * 64;
          const std::uint32_t block = std::min(64U, part - begin);
          const auto at = a * form.first_outputs + (form.is_gated ? 2 * begin : begin) + (o - begin);
          double first = read(form.type, products, at);
          double up = form.is_gated ? read(form.type, products, at + block) : 0.0;
          if (form.has_bias) {
            first += bias_at(slot, form.is_gated ? form.gate_bias_offset : form.up_bias_offset, o);
            if (form.is_gated) up += bias_at(slot, form.up_bias_offset, o);
          }
          value = static_cast<float>(reference_activation(form.act, first, up));
        }
        write(form.type, h, a * form.second_inputs + o, value);
      }
    }
  }

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
