#include "bench/layer/in_process.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include "common/tensor.hpp"
#include "compute/device.hpp"
#include "model/checkpoint.hpp"
#include "model/gating.hpp"

namespace troupe::bench {

struct in_process_layer::state {
  std::unique_ptr<compute::device> device;
  std::unique_ptr<compute::dense_product> gate;
  model::moe_layer layer;
  std::vector<float> hidden;
  std::vector<float> logits;
  std::vector<std::uint16_t> output;
  std::size_t experts_read{};
};

in_process_layer::in_process_layer(std::unique_ptr<state> s) : state_{std::move(s)} {}
in_process_layer::in_process_layer(in_process_layer&&) noexcept = default;
in_process_layer& in_process_layer::operator=(in_process_layer&&) noexcept = default;
in_process_layer::~in_process_layer() = default;

namespace {

result<void> load_experts(compute::device& device, const model::checkpoint& checkpoint, const model::moe_layer& layer) {
  auto slots = static_cast<std::uint32_t>(layer.experts.size());
  if (auto reserved = device.reserve(slots, device.slot_bytes(layer.shape)); !reserved) return reserved;
  std::vector<std::byte> bundle;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    const auto& layout = layer.experts[slot];
    bundle.resize(layout.bytes());
    if (auto read = checkpoint.read_bundle(layout, bundle); !read) return read;
    if (auto loaded = device.load({slot}, layout, bundle); !loaded) return loaded;
  }
  return {};
}

// Row numbers and weights of each expert, in one piece of memory per kind.
struct grouped_assignments {
  std::vector<std::uint32_t> rows;
  std::vector<float> weights;
  std::vector<compute::expert_group> groups;
};

grouped_assignments group(const model::routing& chosen, std::size_t num_experts) {
  std::vector<std::size_t> begin(num_experts + 1);
  for (auto id : chosen.expert_ids) ++begin[static_cast<std::size_t>(id) + 1];
  std::partial_sum(begin.begin(), begin.end(), begin.begin());
  grouped_assignments made;
  made.rows.resize(chosen.expert_ids.size());
  made.weights.resize(chosen.expert_ids.size());
  auto next = begin;
  for (std::size_t i = 0; i < chosen.expert_ids.size(); ++i) {
    auto place = next[static_cast<std::size_t>(chosen.expert_ids[i])]++;
    made.rows[place] = static_cast<std::uint32_t>(i / chosen.top_k);
    made.weights[place] = chosen.weights[i];
  }
  for (std::size_t e = 0; e < num_experts; ++e) {
    auto count = begin[e + 1] - begin[e];
    if (count == 0) continue;
    made.groups.push_back({{static_cast<std::uint32_t>(e)},
                           std::span{made.rows}.subspan(begin[e], count),
                           std::span{made.weights}.subspan(begin[e], count)});
  }
  return made;
}

}  // namespace

result<in_process_layer> in_process_layer::load(const std::filesystem::path& model, std::uint32_t threads) {
  auto checkpoint = model::checkpoint::open(model);
  if (!checkpoint) return fail(checkpoint.error());
  auto s = std::make_unique<state>();
  s->layer = checkpoint->model().layers.front();
  auto device = compute::make_cpu_device({.type = dtype::bf16, .threads = threads});
  if (!device) return fail(device.error());
  s->device = std::move(*device);
  if (auto loaded = load_experts(*s->device, *checkpoint, s->layer); !loaded) return fail(loaded.error());
  auto weight = checkpoint->read_f32(s->layer.gate.weight);
  if (!weight) return fail(weight.error());
  auto gate = compute::dense_product::make(*weight, {}, s->layer.gate.num_experts, s->layer.shape.hidden, dtype::f32);
  if (!gate) return fail(gate.error());
  s->gate = std::make_unique<compute::dense_product>(std::move(*gate));
  return in_process_layer{std::move(s)};
}

result<std::span<const std::uint16_t>> in_process_layer::run(std::span<const std::uint16_t> rows) {
  auto& s = *state_;
  auto hidden = s.layer.shape.hidden;
  auto count = static_cast<std::uint32_t>(rows.size() / hidden);
  s.hidden.resize(rows.size());
  convert(dtype::bf16, std::as_bytes(rows).data(), dtype::f32, std::as_writable_bytes(std::span{s.hidden}).data(),
          rows.size());
  s.logits.resize(std::size_t{count} * s.layer.gate.num_experts);
  s.gate->run(s.hidden.data(), count, s.logits.data());
  auto chosen = model::choose_experts(s.layer.gate, {}, s.logits);
  if (!chosen) return fail(chosen.error());
  auto assignments = group(*chosen, s.layer.gate.num_experts);
  s.experts_read = assignments.groups.size();
  s.output.resize(rows.size());
  compute::segment segment{std::as_bytes(rows).data(), std::as_writable_bytes(std::span{s.output}).data(), count};
  std::vector<compute::group_report> reports(assignments.groups.size());
  compute::batch work{s.layer.shape, {&segment, 1}, assignments.groups};
  if (auto done = s.device->run(work, reports); !done) return fail(done.error());
  return std::span<const std::uint16_t>{s.output};
}

std::size_t in_process_layer::experts_read() const { return state_->experts_read; }

std::uint64_t in_process_layer::expert_bytes() const {
  const auto& shape = state_->layer.shape;
  return std::uint64_t{3} * shape.hidden * shape.width * 2;
}

namespace {

// Four places are read in turns: what one place alone keeps on its way from memory is less than memory can give.
std::uint64_t read_all(std::span<const std::uint64_t> words) {
  constexpr std::size_t places = 4;
  const std::size_t each = words.size() / places;
  std::array<std::uint64_t, places> sums{};
  constexpr std::size_t line = 8;  // words of a cache line
  for (std::size_t begin = 0; begin + line <= each; begin += line) {
    for (std::size_t p = 0; p < places; ++p) {
      const auto part = words.subspan(p * each + begin, line);
      sums[p] += std::reduce(part.begin(), part.end(), std::uint64_t{0});
    }
  }
  return std::reduce(sums.begin(), sums.end());
}

}  // namespace

double read_bandwidth(std::uint32_t threads) {
  constexpr std::size_t words_per_thread = 64 << 20;  // 512 MiB each: above every cache
  constexpr int passes = 5;
  std::vector<std::vector<std::uint64_t>> memory(threads, std::vector<std::uint64_t>(words_per_thread, 1));
  std::vector<double> gigabytes_per_second;
  for (int pass = 0; pass < passes; ++pass) {
    std::vector<std::uint64_t> sums(threads);
    auto begin = std::chrono::steady_clock::now();
    std::vector<std::thread> readers;
    for (std::uint32_t t = 0; t < threads; ++t) {
      readers.emplace_back([&, t] { sums[t] = read_all(memory[t]); });
    }
    for (auto& reader : readers) reader.join();
    std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    if (sums.front() == words_per_thread) {  // uses the sums, so that the reads cannot be left out
      gigabytes_per_second.push_back(static_cast<double>(threads) * words_per_thread * 8 / taken.count() / 1e9);
    }
  }
  std::ranges::sort(gigabytes_per_second);
  return gigabytes_per_second[gigabytes_per_second.size() / 2];
}

}  // namespace troupe::bench
