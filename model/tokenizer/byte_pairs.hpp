// Byte pair encoding of tokenizer.json ("BPE"): begin with characters, join the pair that was learnt first until none
// is left (Sennrich et al., https://aclanthology.org/P16-1162). O(n log n) in the length of a piece.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "model/tokenizer/construct.hpp"
#include "model/tokenizer/subword_model.hpp"
#include "model/tokenizer/token_pair_map.hpp"
#include "model/tokenizer/vocabulary.hpp"

namespace troupe::model {

struct byte_pair_settings {
  std::optional<token_number> unknown;  // for characters without a token; none: they are left out
  bool fuses_unknown{};                 // neighbouring unknown characters become one token
  bool falls_back_to_bytes{};           // characters without a token become the tokens <0xNN> of their bytes
  bool ignores_merges{};                // a piece that is in the vocabulary is one token whatever the merges say
};

class byte_pairs final : public subword_model {
 public:
  struct merge {
    std::uint32_t rank;  // the lowest goes first
    token_number joined;
  };
  using merge_map = token_pair_map<merge>;

  // `words` outlives the model.
  byte_pairs(const vocabulary& words, std::vector<merge_map::entry> merges, byte_pair_settings settings);

  void append_tokens(std::string_view text, std::vector<token_number>& tokens) const override;

 private:
  struct seam {};  // two symbols that some merge joins over their border

  void find_seams(std::vector<merge_map::entry> merges);
  [[nodiscard]] std::optional<token_number> find_character(std::string_view character) const;
  [[nodiscard]] bool append_bytes(std::string_view character, std::vector<token_number>& symbols) const;
  [[nodiscard]] std::vector<token_number> split(std::string_view text) const;
  void append_joined(std::span<const token_number> symbols, std::vector<token_number>& tokens) const;
  void join_few(std::span<const token_number> symbols, std::vector<token_number>& tokens) const;
  void join_many(std::span<const token_number> symbols, std::vector<token_number>& tokens) const;

  const vocabulary& words_;
  merge_map merges_;
  std::optional<token_pair_map<seam>> seams_;  // nothing: any border may be one
  std::vector<std::int32_t> characters_;       // token of a code point below 0x800, -1: none
  std::array<std::optional<token_number>, 256> bytes_;
  byte_pair_settings settings_;
};

// Fills `words`. nullptr when there are problems.
[[nodiscard]] std::unique_ptr<const subword_model> read_byte_pairs(construct source, vocabulary& words);

}  // namespace troupe::model
