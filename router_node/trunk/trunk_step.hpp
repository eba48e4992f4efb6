// The attention of one block for the rows of one step, as a few lists of tasks for the team:
//
//   rows       norm -> input of the product
//   columns    queries, keys, values
//   rows       bias, norm and clip of heads, rotation; keys and values are written, queries scaled
//   tiles      (piece, KV head, some tokens): attention
//   columns    output product, added to x
//   rows       norm of x
//
// Thread rule: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "compute/scratch.hpp"
#include "compute/work_team.hpp"
#include "model/trunk_description.hpp"
#include "router_node/trunk/kv_memory.hpp"
#include "router_node/trunk/rope.hpp"
#include "router_node/trunk/trunk.hpp"
#include "router_node/trunk/trunk_weights.hpp"

namespace troupe::router {

class trunk_step {
 public:
  // All of them outlive it.
  trunk_step(const model::trunk_description& trunk, kv_memory& memory, compute::work_team& team);

  // As trunk::attend. Throws std::bad_alloc.
  [[nodiscard]] result<void> attend(const block_weights& weights, std::uint32_t block,
                                    std::span<const trunk_rows> pieces, float* x, float* normed);

 private:
  struct row_place {
    std::uint32_t position;
    std::uint32_t block;  // of KV memory
    const float* angles;
  };
  struct tile {
    const trunk_rows* piece;
    std::uint32_t first_row;    // of the step
    std::uint32_t first_token;  // of the piece
    std::uint32_t tokens;
    std::uint32_t kv_head;
  };
  struct worker_state {
    std::vector<float> row;
    compute::scratch_buffer kernel;
    compute::scratch_buffer out;
  };

  [[nodiscard]] result<void> place(std::span<const trunk_rows> pieces);
  void plan_tiles(std::span<const trunk_rows> pieces);
  [[nodiscard]] result<void> project(const block_weights& weights, const float* x);
  void finish_row(const block_weights& weights, std::uint32_t block, std::uint32_t row);
  void norm_heads(const block_weights& weights, float* qkv) const;
  void attend(const tile& t, const block_weights& weights, std::uint32_t block, worker_state& worker);
  template <class Task>
  [[nodiscard]] result<void> for_rows(Task task);

  const model::trunk_description& trunk_;
  kv_memory& memory_;
  compute::work_team& team_;
  rope_table rope_;
  std::vector<worker_state> workers_;
  std::vector<compute::scratch_buffer> products_;

  // Of one step.
  std::vector<row_place> places_;
  std::vector<float> own_angles_;
  std::vector<tile> tiles_;
  compute::scratch_buffer inputs_;    // rows for the product of queries, keys and values
  compute::scratch_buffer qkv_;       // [R, queries + keys + values] f32
  compute::scratch_buffer queries_;   // [R, heads, padded dims] f32, rotated and scaled
  compute::scratch_buffer attended_;  // rows for the output product
};

}  // namespace troupe::router
