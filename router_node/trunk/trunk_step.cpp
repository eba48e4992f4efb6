#include "router_node/trunk/trunk_step.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "compute/elementwise.hpp"
#include "router_node/trunk/attention_kernel.hpp"

namespace troupe::router {
namespace {

constexpr std::uint32_t block_tokens = limits::kv_block_tokens;
// Query rows of one tile: their scores and sums stay in the first cache beside a chunk of keys and values.
constexpr std::uint32_t tile_rows = 32;
// Rows that one task takes in the phases that go row by row; fewer are over before another thread is awake.
constexpr std::uint32_t rows_per_task = 8;

}  // namespace

trunk_step::trunk_step(const model::trunk_description& trunk, kv_memory& memory, compute::work_team& team)
    : trunk_(trunk), memory_(memory), team_(team), rope_(trunk.rope), workers_(team.threads()) {
  for (auto& worker : workers_) worker.row.resize(trunk.hidden);
}

template <class Task>
result<void> trunk_step::for_rows(Task task) {
  auto rows = static_cast<std::uint32_t>(places_.size());
  auto several = [&](std::uint32_t number, std::uint32_t worker) {
    auto end = std::min(rows, (number + 1) * rows_per_task);
    for (std::uint32_t row = number * rows_per_task; row < end; ++row) task(row, workers_[worker]);
  };
  std::uint32_t tasks = (rows + rows_per_task - 1) / rows_per_task;
  return team_.run(tasks, tasks < 2, several);
}

result<void> trunk_step::place(std::span<const trunk_rows> pieces) {
  places_.clear();
  std::uint32_t end = 0;
  for (const auto& piece : pieces) {
    std::uint64_t tokens = std::uint64_t{piece.first_position} + piece.rows;
    bool covered = piece.rows != 0 && tokens <= std::uint64_t{piece.blocks.size()} * block_tokens;
    bool known = std::ranges::all_of(piece.blocks, [&](std::uint32_t b) { return b < memory_.blocks(); });
    if (!covered || !known) {
      return fail(
          errc::invalid_request,
          fmt::format("{} rows from position {} with {} blocks of {} tokens, out of {} blocks; this is a bug of "
                      "the caller",
                      piece.rows, piece.first_position, piece.blocks.size(), block_tokens, memory_.blocks()));
    }
    end = std::max(end, static_cast<std::uint32_t>(tokens));
    for (std::uint32_t r = 0; r < piece.rows; ++r) {
      auto position = piece.first_position + r;
      places_.push_back({position, piece.blocks[position / block_tokens], nullptr});
    }
  }
  rope_.reserve(end);
  std::size_t row = std::size_t{2} * rope_.half();
  own_angles_.resize(trunk_.rope.kind == model::rope_kind::dynamic ? places_.size() * row : 0);
  auto* next = places_.data();
  for (const auto& piece : pieces) {
    auto tokens = std::max(piece.known_tokens, piece.first_position + piece.rows);
    for (std::uint32_t r = 0; r < piece.rows; ++r, ++next) {
      float* own =
          own_angles_.empty() ? nullptr : own_angles_.data() + row * static_cast<std::size_t>(next - places_.data());
      next->angles = rope_.angles(next->position, tokens, own);
    }
  }
  return {};
}

void trunk_step::plan_tiles(std::span<const trunk_rows> pieces) {
  tiles_.clear();
  std::uint32_t tokens = std::max(1U, tile_rows / (trunk_.heads / trunk_.kv_heads));
  std::uint32_t row = 0;
  for (const auto& piece : pieces) {
    // A head's keys and values stay in the second cache while its tiles pass.
    for (std::uint32_t head = 0; head < trunk_.kv_heads; ++head) {
      for (std::uint32_t first = 0; first < piece.rows; first += tokens) {
        tiles_.push_back({&piece, row + first, first, std::min(tokens, piece.rows - first), head});
      }
    }
    row += piece.rows;
  }
}

result<void> trunk_step::project(const block_weights& weights, const float* x) {
  const auto& qkv = weights.qkv;
  auto rows = static_cast<std::uint32_t>(places_.size());
  std::byte* inputs = inputs_.take(qkv.room_for(rows));
  auto epsilon = static_cast<float>(trunk_.norm_epsilon);
  auto norm = [&](std::uint32_t row, worker_state& worker) {
    compute::rms_norm(x + std::size_t{row} * trunk_.hidden, weights.attention_norm.data(), epsilon, trunk_.hidden,
                      worker.row.data());
    qkv.write_row(worker.row.data(), inputs + row * qkv.row_bytes());
  };
  if (auto done = for_rows(norm); !done) return done;
  auto* target = reinterpret_cast<float*>(qkv_.take(std::size_t{rows} * qkv.out() * sizeof(float)));
  auto keep = [&](std::uint32_t row, std::uint32_t column, std::span<const float> products) {
    float* to = target + std::size_t{row} * qkv.out() + column;
    std::ranges::copy(products, to);
    if (!weights.qkv_bias.empty()) compute::add(to, weights.qkv_bias.data() + column, products.size());
  };
  return qkv.multiply(team_, inputs, rows, products_, keep);
}

void trunk_step::norm_heads(const block_weights& weights, float* qkv) const {
  std::size_t queries = std::size_t{trunk_.heads} * trunk_.head_dim;
  std::size_t keys = std::size_t{trunk_.kv_heads} * trunk_.head_dim;
  auto epsilon = static_cast<float>(trunk_.norm_epsilon);
  if (trunk_.norm == model::head_norm::whole) {
    compute::rms_norm(qkv, weights.query_norm.data(), epsilon, queries, qkv);
    compute::rms_norm(qkv + queries, weights.key_norm.data(), epsilon, keys, qkv + queries);
  }
  if (trunk_.norm == model::head_norm::per_head) {
    for (std::size_t at = 0; at < queries + keys; at += trunk_.head_dim) {
      const auto& weight = at < queries ? weights.query_norm : weights.key_norm;
      compute::rms_norm(qkv + at, weight.data(), epsilon, trunk_.head_dim, qkv + at);
    }
  }
  if (trunk_.clip_qkv == 0) return;
  auto bound = static_cast<float>(trunk_.clip_qkv);
  for (std::size_t i = 0; i < queries + 2 * keys; ++i) qkv[i] = std::clamp(qkv[i], -bound, bound);
}

void trunk_step::finish_row(const block_weights& weights, std::uint32_t block, std::uint32_t row) {
  const auto& place = places_[row];
  std::size_t dim = trunk_.head_dim;
  std::size_t padded = memory_.shape().dims();
  float* qkv = reinterpret_cast<float*>(qkv_.take(0)) + std::size_t{row} * weights.qkv.out();
  norm_heads(weights, qkv);
  float* keys = qkv + trunk_.heads * dim;
  float* values = keys + trunk_.kv_heads * dim;
  const float* cosines = place.angles;
  const float* sines = place.angles + rope_.half();
  auto* queries = reinterpret_cast<float*>(queries_.take(0)) + row * trunk_.heads * padded;
  float scale = 1.0F / std::sqrt(static_cast<float>(trunk_.head_dim));
  for (std::uint32_t head = 0; head < trunk_.heads; ++head) {
    float* query = qkv + head * dim;
    compute::rotate_pairs(query, cosines, sines, rope_.half());
    float* target = queries + head * padded;
    for (std::size_t d = 0; d < dim; ++d) target[d] = query[d] * scale;
    for (std::size_t d = dim; d < padded; ++d) target[d] = 0;
  }
  for (std::uint32_t head = 0; head < trunk_.kv_heads; ++head) {
    compute::rotate_pairs(keys + head * dim, cosines, sines, rope_.half());
    memory_.write(block, place.block, place.position % block_tokens, head, keys + head * dim, values + head * dim);
  }
  weights.output.clear_padding(attended_.take(0) + row * weights.output.row_bytes());
}

void trunk_step::attend(const tile& t, const block_weights& weights, std::uint32_t block, worker_state& worker) {
  const auto& shape = memory_.shape();
  std::uint32_t group = trunk_.heads / trunk_.kv_heads;
  std::size_t dims = shape.dims();
  auto* out = reinterpret_cast<float*>(worker.out.take(std::size_t{t.tokens} * group * dims * sizeof(float)));
  const auto* queries = reinterpret_cast<const float*>(queries_.data());
  attend_tile({.type = shape.type,
               .dims = shape.dims(),
               .first_block = memory_.layer(block) + t.kv_head * 2 * shape.head_bytes(),
               .block_bytes = shape.block_bytes(),
               .head_bytes = shape.head_bytes(),
               .blocks = t.piece->blocks.data(),
               .first_position = t.piece->first_position + t.first_token,
               .tokens = t.tokens,
               .group = group,
               .window = trunk_.window,
               .queries = queries + (std::size_t{t.first_row} * trunk_.heads + t.kv_head * group) * dims,
               .query_stride = trunk_.heads * dims,
               .out = out},
              worker.kernel);
  for (std::uint32_t token = 0; token < t.tokens; ++token) {
    std::byte* row = attended_.take(0) + (t.first_row + token) * weights.output.row_bytes();
    for (std::uint32_t g = 0; g < group; ++g) {
      weights.output.write_elements(out + (token * group + g) * dims, (t.kv_head * group + g) * trunk_.head_dim,
                                    trunk_.head_dim, row);
    }
  }
}

result<void> trunk_step::attend(const block_weights& weights, std::uint32_t block, std::span<const trunk_rows> pieces,
                                float* x, float* normed) {
  if (auto done = place(pieces); !done) return done;
  if (places_.empty()) return {};
  plan_tiles(pieces);
  if (auto done = project(weights, x); !done) return done;

  auto rows = static_cast<std::uint32_t>(places_.size());
  queries_.take(std::size_t{rows} * trunk_.heads * memory_.shape().dims() * sizeof(float));
  const std::byte* attended = attended_.take(weights.output.room_for(rows));
  auto finish = [&](std::uint32_t row, worker_state&) { finish_row(weights, block, row); };
  if (auto done = for_rows(finish); !done) return done;

  auto attention = [&](std::uint32_t number, std::uint32_t worker) {
    attend(tiles_[number], weights, block, workers_[worker]);
  };
  if (auto done = team_.run(static_cast<std::uint32_t>(tiles_.size()), false, attention); !done) return done;

  std::size_t hidden = trunk_.hidden;
  auto add = [&](std::uint32_t row, std::uint32_t column, std::span<const float> products) {
    float* to = x + row * hidden + column;
    compute::add(to, products.data(), products.size());
    if (!weights.output_bias.empty()) compute::add(to, weights.output_bias.data() + column, products.size());
  };
  if (auto done = weights.output.multiply(team_, attended, rows, products_, add); !done) return done;

  auto epsilon = static_cast<float>(trunk_.norm_epsilon);
  auto norm = [&](std::uint32_t row, worker_state&) {
    compute::rms_norm(x + row * hidden, weights.mlp_norm.data(), epsilon, hidden, normed + row * hidden);
  };
  return for_rows(norm);
}

}  // namespace troupe::router
