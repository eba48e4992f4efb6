#include "router_node/trunk/trunk.hpp"

#include <cassert>
#include <new>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/elementwise.hpp"
#include "router_node/trunk/trunk_step.hpp"

namespace troupe::router {

struct trunk::state {
  state(model::trunk_description d, trunk_weights w, kv_memory m, std::shared_ptr<compute::work_team> t, dtype kept)
      : description(std::move(d)),
        weights(std::move(w)),
        memory(std::move(m)),
        team(std::move(t)),
        type(kept),
        step(description, memory, *team) {}

  model::trunk_description description;
  trunk_weights weights;
  kv_memory memory;
  std::shared_ptr<compute::work_team> team;
  dtype type;
  trunk_step step;
  // Of the head.
  std::vector<float> row;
  compute::scratch_buffer inputs;
  std::vector<compute::scratch_buffer> products;
};

trunk::trunk(std::unique_ptr<state> s) : state_(std::move(s)) {}
trunk::~trunk() = default;

bool trunk::is_supported(const model::description& model) { return model::has_trunk(model.family); }

result<std::unique_ptr<trunk>> trunk::make(const model::checkpoint& checkpoint, const trunk_options& options) {
  auto description = checkpoint.trunk();
  if (!description) return fail(description.error());
  auto kernel = compute::make_product_kernel(options.type);
  if (!kernel) return fail(kernel.error());
  auto memory = kv_memory::make({.type = options.type,
                                 .layers = static_cast<std::uint32_t>(description->blocks.size()),
                                 .kv_heads = description->kv_heads,
                                 .head_dim = description->head_dim},
                                options.kv_bytes);
  if (!memory) return fail(memory.error());
  auto team = compute::work_team::start(options.threads, "a trunk");
  if (!team) return fail(team.error());
  auto weights = read_trunk_weights(checkpoint, *description, *kernel, *team);
  if (!weights) return fail(weights.error());
  return std::unique_ptr<trunk>(new trunk(std::make_unique<state>(std::move(*description), std::move(*weights),
                                                                  std::move(*memory), std::move(*team), options.type)));
}

std::uint32_t trunk::layers() const { return static_cast<std::uint32_t>(state_->description.blocks.size()); }
std::uint32_t trunk::hidden() const { return state_->description.hidden; }
std::uint32_t trunk::vocabulary() const { return state_->description.vocabulary; }
std::uint32_t trunk::context_tokens() const { return state_->description.context_tokens; }
std::uint32_t trunk::kv_blocks() const { return state_->memory.blocks(); }
std::uint32_t trunk::block_tokens() const { return limits::kv_block_tokens; }
const std::vector<token_number>& trunk::eos() const { return state_->description.end_tokens; }
bool trunk::is_moe(std::uint32_t block) const { return !state_->description.blocks[block].dense; }

void trunk::embed(std::span<const token_number> tokens, float* x) const {
  std::size_t hidden = state_->description.hidden;
  std::size_t row_bytes = hidden * bytes_per_element(state_->type);
  for (auto token : tokens) {
    assert(token < state_->description.vocabulary);
    convert(state_->type, state_->weights.embedding.data() + token * row_bytes, dtype::f32,
            reinterpret_cast<std::byte*>(x), hidden);
    x += hidden;
  }
}

result<void> trunk::attend(std::uint32_t block, std::span<const trunk_rows> pieces, float* x, float* normed) {
  assert(block < layers());
  try {
    return state_->step.attend(state_->weights.blocks[block], block, pieces, x, normed);
  } catch (const std::bad_alloc&) {
    return fail(errc::out_of_memory,
                fmt::format("no memory for a step of {} sequences; send fewer rows at a time", pieces.size()));
  }
}

result<void> trunk::add_dense(std::uint32_t block, std::uint32_t rows, const float* normed, float* x) {
  assert(!is_moe(block));
  return state_->weights.blocks[block].dense->add_to(normed, rows, x);
}

result<void> trunk::logits(std::span<const std::uint32_t> rows, const float* x, float* out) {
  auto& s = *state_;
  const auto& head = s.weights.head;
  auto epsilon = static_cast<float>(s.description.norm_epsilon);
  try {
    s.row.resize(s.description.hidden);
    auto count = static_cast<std::uint32_t>(rows.size());
    if (count == 0) return {};
    std::byte* inputs = s.inputs.take(head.room_for(count));
    for (std::uint32_t i = 0; i < count; ++i) {
      compute::rms_norm(x + std::size_t{rows[i]} * s.description.hidden, s.weights.final_norm.data(), epsilon,
                        s.description.hidden, s.row.data());
      head.write_row(s.row.data(), inputs + i * head.row_bytes());
    }
    auto keep = [&](std::uint32_t row, std::uint32_t column, std::span<const float> products) {
      std::ranges::copy(products, out + std::size_t{row} * head.out() + column);
    };
    return head.multiply(*s.team, inputs, count, s.products, keep);
  } catch (const std::bad_alloc&) {
    return fail(errc::out_of_memory, fmt::format("no memory for the logits of {} rows; pick fewer", rows.size()));
  }
}

}  // namespace troupe::router
