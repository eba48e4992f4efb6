// Everything of a decoder that is not a routed expert: embeddings, norms, attention over remembered keys and values,
// dense MLPs, head. A step goes through the blocks in order:
//
//   embed -> [ attend -> (experts' layer service, or add_dense) added to x ] for each block -> logits
//
// Rows of a step belong to pieces of sequences; x is the residual stream, [R, H] f32, rows in the pieces' order.
// Formulas are those of transformers 4.57. In bf16, weights, remembered keys and values, and what enters a product are
// bf16; everything else is f32.
//
// A row's result does not depend on which rows are beside it, except in products by oneDNN (README.md says where).
//
// Thread rule: one thread. It has a team of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "common/ids.hpp"
#include "common/tensor.hpp"
#include "model/checkpoint.hpp"

namespace troupe::router {

struct trunk_options {
  dtype type{dtype::bf16};   // f32 or bf16
  std::uint32_t threads{1};  // the calling one included
  std::uint64_t kv_bytes{};  // for keys and values; only what was written is resident
};

// One sequence's piece of a step: tokens at positions first_position, first_position + 1, ...
struct trunk_rows {
  std::uint32_t first_position{};
  std::uint32_t rows{};
  std::span<const std::uint32_t> blocks;  // of the sequence, by position / block_tokens(); those of the rows included
  // Tokens of the sequence that are known so far; 0: up to the last of these rows. Only dynamic ropes look at it: past
  // the model's own context, transformers turns a prompt by its whole length.
  std::uint32_t known_tokens{};
};

class trunk {
 public:
  // invalid_request naming what is not supported or everything that is wrong; out_of_memory.
  [[nodiscard]] static result<std::unique_ptr<trunk>> make(const model::checkpoint& checkpoint,
                                                           const trunk_options& options);
  [[nodiscard]] static bool is_supported(const model::description& model);
  ~trunk();

  [[nodiscard]] std::uint32_t layers() const;  // blocks, dense ones included
  [[nodiscard]] std::uint32_t hidden() const;
  [[nodiscard]] std::uint32_t vocabulary() const;
  [[nodiscard]] std::uint32_t context_tokens() const;  // of prompt and answer together
  [[nodiscard]] std::uint32_t kv_blocks() const;
  [[nodiscard]] std::uint32_t block_tokens() const;
  [[nodiscard]] const std::vector<token_number>& eos() const;  // tokens that end an answer
  [[nodiscard]] bool is_moe(std::uint32_t block) const;        // else add_dense computes its MLP

  // x [tokens, H]. @pre every token is below vocabulary()
  void embed(std::span<const token_number> tokens, float* x) const;

  // x += attention(norm(x)), and remembers keys and values of these rows; normed [R, H] = the norm of x that the
  // block's MLP or experts take. A piece may write positions again that a failed step has written. Pieces of one step
  // are of different sequences.
  // invalid_request when a piece's blocks do not cover it or are none of the memory's; internal, out_of_memory.
  [[nodiscard]] result<void> attend(std::uint32_t block, std::span<const trunk_rows> pieces, float* x, float* normed);

  // x += mlp(normed). @pre !is_moe(block)
  [[nodiscard]] result<void> add_dense(std::uint32_t block, std::uint32_t rows, const float* normed, float* x);

  // The last norm and the head of the picked rows of x: out [picked, V].
  [[nodiscard]] result<void> logits(std::span<const std::uint32_t> rows, const float* x, float* out);

 private:
  struct state;
  explicit trunk(std::unique_ptr<state> s);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::router
