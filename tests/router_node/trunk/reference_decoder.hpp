// A whole model in one process: the trunk under test, and MoE blocks computed by the reference of the model tests.
// Keeps sequences with their blocks of KV memory, handed out so that neighbours in a sequence are never neighbours in
// memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "model/checkpoint.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::router::test {

struct sequence {
  std::vector<token_number> tokens;
  std::uint32_t computed{};  // of them are in KV memory
  std::vector<std::uint32_t> blocks;
};

struct step_piece {
  sequence* of;
  std::uint32_t rows;
};

// Throws std::runtime_error with the product's message when something is refused.
class reference_decoder {
 public:
  reference_decoder(const std::filesystem::path& folder, dtype type, std::uint32_t threads = 2);

  [[nodiscard]] trunk& under_test() { return *trunk_; }
  // Logits [rows of all pieces, V]; the pieces' tokens are then in KV memory.
  std::vector<float> step(std::span<const step_piece> pieces);
  std::vector<float> step(sequence& one, std::uint32_t rows);
  // Appends the likeliest token of the last row of logits.
  void append_greedy(sequence& to, std::span<const float> last_logits) const;
  // The likeliest continuation, one token at a time.
  std::vector<token_number> continue_greedily(sequence& from, std::uint32_t tokens);

 private:
  void make_room(sequence& of, std::uint32_t tokens);
  void run_block(std::uint32_t block, std::span<const trunk_rows> rows, std::vector<float>& x);

  model::checkpoint checkpoint_;
  std::unique_ptr<trunk> trunk_;
  std::vector<std::uint32_t> free_blocks_;
};

// Largest difference, as a share of the reference's largest absolute value.
[[nodiscard]] double share_of_peak(std::span<const float> ours, std::span<const float> reference);

}  // namespace troupe::router::test
