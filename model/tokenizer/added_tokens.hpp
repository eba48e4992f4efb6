// Tokens that are looked for in the text before any model sees it: the special ones ("<s>") and words added by hand.
#pragma once

#include <bitset>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/tokenizer/normalizers.hpp"
#include "model/tokenizer/piece.hpp"

namespace troupe::model {

struct added_token {
  token_number number{};
  std::string content;  // not empty
  bool single_word{};   // only where no word character is next to it
  bool strips_left{};   // takes the white space before it along
  bool strips_right{};  // and behind it
  bool normalized{};    // looked for in the normalized text, else in the text as it came
  bool special{};       // not part of a text that leaves special tokens out
};

// Immutable; const calls from many threads are safe.
class added_tokens {
 public:
  added_tokens() = default;
  // `used` (nullptr: none) is what `normalized` tokens are put through as well; asked only here.
  added_tokens(std::vector<added_token> tokens, const normalizer* used);

  // Cut the tokens out: of the text as it came, and of the normalized text.
  void split_raw(piece_list& pieces) const { split(pieces, raw_); }
  void split_normalized(piece_list& pieces) const { split(pieces, normalized_); }

 private:
  // A trie over bytes; nodes are numbered, 0 is the root.
  struct trie {
    std::unordered_map<std::uint64_t, std::uint32_t> children;  // by node and byte
    std::vector<std::optional<std::size_t>> ends;               // per node: which token ends here
    std::bitset<256> first_bytes;

    void add(std::string_view text, std::size_t token);
  };
  struct found_token {
    std::size_t token;
    std::size_t end;
  };

  void split(piece_list& pieces, const trie& searched) const;
  void cut(piece& whole, const trie& searched, piece_list& out) const;
  [[nodiscard]] static std::optional<found_token> longest_at(std::string_view text, std::size_t begin,
                                                             const trie& searched);

  std::vector<added_token> tokens_;
  trie raw_;
  trie normalized_;
};

}  // namespace troupe::model
