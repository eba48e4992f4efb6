#include "model/tokenizer/added_tokens.hpp"

#include <algorithm>
#include <utility>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  auto position = last_character(text);
  return is_word(take_character(text, position));
}

bool starts_with_word(std::string_view text) {
  std::size_t position = 0;
  return !text.empty() && is_word(take_character(text, position));
}

// Where the white space before `end` begins, not before `begin`.
std::size_t space_before(std::string_view text, std::size_t begin, std::size_t end) {
  while (end > begin) {
    auto last = last_character(text.substr(0, end));
    auto position = last;
    if (!is_white_space(take_character(text, position))) break;
    end = last;
  }
  return end;
}

std::size_t space_after(std::string_view text, std::size_t begin) {
  while (begin < text.size()) {
    auto next = begin;
    if (!is_white_space(take_character(text, next))) break;
    begin = next;
  }
  return begin;
}

}  // namespace

void added_tokens::trie::add(std::string_view text, std::size_t token) {
  if (text.empty()) return;
  if (ends.empty()) ends.emplace_back();
  first_bytes.set(static_cast<unsigned char>(text[0]));
  std::uint32_t node = 0;
  for (char byte : text) {
    auto key = std::uint64_t{node} << 8 | static_cast<unsigned char>(byte);
    auto [child, is_new] = children.emplace(key, static_cast<std::uint32_t>(ends.size()));
    if (is_new) ends.emplace_back();
    node = child->second;
  }
  if (!ends[node]) ends[node] = token;
}

added_tokens::added_tokens(std::vector<added_token> tokens, const normalizer* used) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const auto& token = tokens_[i];
    piece content{token.content, true, {}};
    if (token.normalized && used != nullptr) used->apply(content);
    (token.normalized ? normalized_ : raw_).add(content.text, i);
  }
}

std::optional<added_tokens::found_token> added_tokens::longest_at(std::string_view text, std::size_t begin,
                                                                  const trie& searched) {
  std::optional<found_token> longest;
  std::uint32_t node = 0;
  for (auto i = begin; i < text.size(); ++i) {
    auto child = searched.children.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (child == searched.children.end()) break;
    node = child->second;
    if (searched.ends[node]) longest = found_token{*searched.ends[node], i + 1};
  }
  return longest;
}

// Leftmost first, then longest. White space that a token took along may itself hold a token, which is then found as
// well, and the text goes on behind it: as in the reference.
void added_tokens::cut(piece& whole, const trie& searched, piece_list& out) const {
  const std::string_view text = whole.text;
  auto add_text = [&](std::size_t begin, std::size_t end) {
    if (end > begin) out.push_back({std::string{text.substr(begin, end - begin)}, whole.at_start && begin == 0, {}});
  };
  std::size_t covered = 0;
  bool is_cut = false;
  for (std::size_t i = 0; i < text.size();) {
    auto found =
        searched.first_bytes.test(static_cast<unsigned char>(text[i])) ? longest_at(text, i, searched) : std::nullopt;
    if (!found) {
      ++i;
      continue;
    }
    const auto& token = tokens_[found->token];
    auto begin = i;
    auto end = i = found->end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) continue;
    if (token.strips_left) begin = std::max(space_before(text, covered, begin), covered);
    if (token.strips_right) end = space_after(text, end);
    add_text(covered, begin);
    out.push_back({{}, whole.at_start && begin == 0, token.number});
    covered = end;
    is_cut = true;
  }
  if (is_cut) return add_text(covered, text.size());
  out.push_back(std::move(whole));
}

void added_tokens::split(piece_list& pieces, const trie& searched) const {
  if (searched.ends.empty()) return;
  piece_list out;
  out.reserve(pieces.size());
  for (auto& part : pieces) {
    part.token || part.text.empty() ? out.push_back(std::move(part)) : cut(part, searched, out);
  }
  pieces = std::move(out);
}

}  // namespace troupe::model
