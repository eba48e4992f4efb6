#include "model/tokenizer/byte_pairs.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <string>
#include <utility>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

constexpr char32_t characters_in_table = 0x800;
// Up to so many symbols, looking at all of them again is faster than keeping a heap.
constexpr std::size_t few_symbols = 32;
constexpr std::uint32_t nowhere = std::numeric_limits<std::uint32_t>::max();

}  // namespace

byte_pairs::byte_pairs(const vocabulary& words, std::vector<merge_map::entry> merges, byte_pair_settings settings)
    : words_(words), merges_(merges, words.size()), characters_(characters_in_table, -1), settings_(settings) {
  for (char32_t c = 0; c < characters_in_table; ++c) {
    std::string text;
    append_character(text, c);
    if (auto token = words.find(text)) characters_[c] = static_cast<std::int32_t>(*token);
  }
  for (unsigned byte = 0; byte < 256; ++byte) bytes_[byte] = words.find(byte_token(static_cast<unsigned char>(byte)));
  find_seams(std::move(merges));
}

// A merge joins two tokens over the border between the last symbol of the left one and the first of the right one. A
// border that is no merge's stays one in every text, so what is on its sides can be joined apart: a long text without
// words (Mixtral's) falls into short runs all the same.
void byte_pairs::find_seams(std::vector<merge_map::entry> merges) {
  auto bytes = [this](token_number token) { return words_.text_of(token)->size(); };
  std::erase_if(merges, [&](const auto& pair) { return bytes(pair.left) == 0 || bytes(pair.right) == 0; });
  // Parts are shorter than what they make, so they come first.
  std::stable_sort(merges.begin(), merges.end(),
                   [&](const auto& a, const auto& b) { return bytes(a.value.joined) < bytes(b.value.joined); });
  std::vector<token_number> first(words_.size());
  std::iota(first.begin(), first.end(), 0U);
  auto last = first;
  std::vector<bool> is_made(words_.size());
  std::vector<token_pair_map<seam>::entry> seams;
  seams.reserve(merges.size());
  for (const auto& [left, right, value] : merges) {
    auto made = value.joined;
    // A token made in two ways of different symbols: not so in any real vocabulary.
    if (is_made[made] && (first[made] != first[left] || last[made] != last[right])) return;
    first[made] = first[left];
    last[made] = last[right];
    is_made[made] = true;
    seams.push_back({last[left], first[right], {}});
  }
  // A symbol of a text that is also made of other symbols.
  auto is_made_too = [&](const std::optional<token_number>& symbol) { return symbol && is_made[*symbol]; };
  if (is_made_too(settings_.unknown) || std::any_of(bytes_.begin(), bytes_.end(), is_made_too)) return;
  seams_.emplace(std::move(seams), words_.size());
}

std::optional<token_number> byte_pairs::find_character(std::string_view character) const {
  std::size_t end = 0;
  auto code_point = take_character(character, end);
  if (code_point >= characters_in_table) return words_.find(character);
  auto token = characters_[code_point];
  return token >= 0 ? std::optional{static_cast<token_number>(token)} : std::nullopt;
}

bool byte_pairs::append_bytes(std::string_view character, std::vector<token_number>& symbols) const {
  auto has_token = [this](char byte) { return bytes_[static_cast<unsigned char>(byte)].has_value(); };
  if (!settings_.falls_back_to_bytes || !std::all_of(character.begin(), character.end(), has_token)) return false;
  for (char byte : character) symbols.push_back(*bytes_[static_cast<unsigned char>(byte)]);
  return true;
}

// An unknown token waits until it is clear whether the next character is unknown too; as in the reference, tokens of
// bytes overtake it.
std::vector<token_number> byte_pairs::split(std::string_view text) const {
  std::vector<token_number> symbols;
  symbols.reserve(text.size());
  bool unknown_waits = false;
  for (std::size_t i = 0; i < text.size();) {
    auto begin = i;
    static_cast<void>(take_character(text, i));
    auto character = text.substr(begin, i - begin);
    auto token = find_character(character);
    if (!token && (append_bytes(character, symbols) || !settings_.unknown)) continue;
    if (unknown_waits && (token || !settings_.fuses_unknown)) symbols.push_back(*settings_.unknown);
    unknown_waits = !token;
    if (token) symbols.push_back(*token);
  }
  if (unknown_waits) symbols.push_back(*settings_.unknown);
  return symbols;
}

void byte_pairs::join_few(std::span<const token_number> symbols, std::vector<token_number>& tokens) const {
  std::array<token_number, few_symbols> parts{};
  std::array<const merge*, few_symbols> joins{};  // of a part with the next one
  std::copy(symbols.begin(), symbols.end(), parts.begin());
  auto count = symbols.size();
  for (std::size_t i = 0; i + 1 < count; ++i) joins[i] = merges_.find(parts[i], parts[i + 1]);
  while (true) {
    std::size_t best = count;
    for (std::size_t i = 0; i + 1 < count; ++i) {
      if (joins[i] != nullptr && (best == count || joins[i]->rank < joins[best]->rank)) best = i;
    }
    if (best == count) break;
    parts[best] = joins[best]->joined;
    std::copy(parts.begin() + best + 2, parts.begin() + count, parts.begin() + best + 1);
    std::copy(joins.begin() + best + 2, joins.begin() + count, joins.begin() + best + 1);
    --count;
    if (best > 0) joins[best - 1] = merges_.find(parts[best - 1], parts[best]);
    joins[best] = best + 1 < count ? merges_.find(parts[best], parts[best + 1]) : nullptr;
  }
  tokens.insert(tokens.end(), parts.begin(), parts.begin() + count);
}

void byte_pairs::join_many(std::span<const token_number> symbols, std::vector<token_number>& tokens) const {
  struct part {
    token_number token;
    std::uint32_t previous;
    std::uint32_t next;
    bool joined_away;
  };
  struct candidate {
    std::uint32_t rank;
    std::uint32_t at;
    token_number joined;
    bool operator>(const candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  std::vector<part> parts(symbols.size());
  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> waiting;
  auto consider = [&](std::uint32_t left, std::uint32_t right) {
    if (left == nowhere || right == nowhere) return;
    if (const auto* found = merges_.find(parts[left].token, parts[right].token)) {
      waiting.push({found->rank, left, found->joined});
    }
  };
  const auto count = static_cast<std::uint32_t>(symbols.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    parts[i] = {symbols[i], i == 0 ? nowhere : i - 1, i + 1 == count ? nowhere : i + 1, false};
  }
  for (std::uint32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
  while (!waiting.empty()) {
    auto [rank, at, joined] = waiting.top();
    waiting.pop();
    auto& left = parts[at];
    if (left.joined_away || left.next == nowhere) continue;
    auto& right = parts[left.next];
    const auto* found = merges_.find(left.token, right.token);
    if (found == nullptr || found->joined != joined) continue;  // one of the two has changed since
    left.token = joined;
    left.next = right.next;
    right.joined_away = true;
    if (left.next != nowhere) parts[left.next].previous = at;
    consider(left.previous, at);
    consider(at, left.next);
  }
  for (const auto& remaining : parts) {
    if (!remaining.joined_away) tokens.push_back(remaining.token);
  }
}

void byte_pairs::append_joined(std::span<const token_number> symbols, std::vector<token_number>& tokens) const {
  symbols.size() <= few_symbols ? join_few(symbols, tokens) : join_many(symbols, tokens);
}

void byte_pairs::append_tokens(std::string_view text, std::vector<token_number>& tokens) const {
  if (settings_.ignores_merges && text.size() <= words_.bytes_max()) {
    if (auto whole = words_.find(text)) {
      tokens.push_back(*whole);
      return;
    }
  }
  const auto symbols = split(text);
  std::span<const token_number> rest = symbols;
  while (!rest.empty()) {
    std::size_t end = 1;
    while (end < rest.size() && (!seams_ || seams_->find(rest[end - 1], rest[end]) != nullptr)) ++end;
    append_joined(rest.first(end), tokens);
    rest = rest.subspan(end);
  }
}

}  // namespace troupe::model
