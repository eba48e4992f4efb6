#include "model/tokenizer/byte_pairs.hpp"

#include <algorithm>
#include <limits>
#include <queue>
#include <utility>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

constexpr char32_t characters_in_table = 0x800;
// Below it, looking at every pair again is faster than keeping a heap.
constexpr std::size_t short_piece = 24;
constexpr std::uint32_t no_rank = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t nowhere = std::numeric_limits<std::uint32_t>::max();

}  // namespace

struct byte_pairs::symbol {
  token_number token;
  std::uint32_t previous;
  std::uint32_t next;
  bool joined_away;
};

byte_pairs::byte_pairs(const vocabulary& words, std::vector<merge> merges, byte_pair_settings settings)
    : words_(words), merges_(std::move(merges)), characters_(characters_in_table, -1), settings_(settings) {
  std::stable_sort(merges_.begin(), merges_.end(), [](const merge& a, const merge& b) {
    return std::pair{a.left, a.right} < std::pair{b.left, b.right};
  });
  std::size_t kept = 0;
  for (const auto& next : merges_) {
    bool repeats = kept > 0 && merges_[kept - 1].left == next.left && merges_[kept - 1].right == next.right;
    merges_[repeats ? kept - 1 : kept++] = next;
  }
  merges_.resize(kept);
  begin_.assign(words.size() + std::size_t{1}, 0);
  for (const auto& pair : merges_) ++begin_[pair.left + 1];
  for (std::size_t i = 1; i < begin_.size(); ++i) begin_[i] += begin_[i - 1];
  for (char32_t c = 0; c < characters_in_table; ++c) {
    std::string text;
    append_character(text, c);
    if (auto token = words.find(text)) characters_[c] = static_cast<std::int32_t>(*token);
  }
  for (unsigned byte = 0; byte < 256; ++byte) bytes_[byte] = words.find(byte_token(static_cast<unsigned char>(byte)));
}

const byte_pairs::merge* byte_pairs::find_merge(token_number left, token_number right) const {
  auto first = merges_.begin() + begin_[left];
  auto last = merges_.begin() + begin_[left + 1];
  auto found = std::lower_bound(first, last, right, [](const merge& pair, token_number r) { return pair.right < r; });
  return found != last && found->right == right ? &*found : nullptr;
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
void byte_pairs::split(std::string_view text, std::vector<token_number>& symbols) const {
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
}

void byte_pairs::join_short(std::vector<token_number>& symbols) const {
  while (symbols.size() > 1) {
    const merge* best = nullptr;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto* pair = find_merge(symbols[i], symbols[i + 1]);
      if (pair != nullptr && (best == nullptr || pair->rank < best->rank)) {
        best = pair;
        at = i;
      }
    }
    if (best == nullptr) return;
    symbols[at] = best->joined;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

void byte_pairs::join(std::vector<token_number>& tokens) const {
  struct candidate {
    std::uint32_t rank;
    std::uint32_t at;
    token_number joined;
    bool operator>(const candidate& other) const { return std::pair{rank, at} > std::pair{other.rank, other.at}; }
  };
  std::vector<symbol> symbols(tokens.size());
  std::priority_queue<candidate, std::vector<candidate>, std::greater<>> waiting;
  auto consider = [&](std::uint32_t left, std::uint32_t right) {
    if (left == nowhere || right == nowhere) return;
    if (const auto* pair = find_merge(symbols[left].token, symbols[right].token)) {
      waiting.push({pair->rank, left, pair->joined});
    }
  };
  const auto count = static_cast<std::uint32_t>(tokens.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    symbols[i] = {tokens[i], i == 0 ? nowhere : i - 1, i + 1 == count ? nowhere : i + 1, false};
  }
  for (std::uint32_t i = 0; i + 1 < count; ++i) consider(i, i + 1);
  while (!waiting.empty()) {
    auto [rank, at, joined] = waiting.top();
    waiting.pop();
    auto& left = symbols[at];
    if (left.joined_away || left.next == nowhere) continue;
    auto& right = symbols[left.next];
    const auto* pair = find_merge(left.token, right.token);
    if (pair == nullptr || pair->joined != joined) continue;  // one of the two has changed since
    left.token = joined;
    left.next = right.next;
    right.joined_away = true;
    if (left.next != nowhere) symbols[left.next].previous = at;
    consider(left.previous, at);
    consider(at, left.next);
  }
  tokens.clear();
  for (const auto& remaining : symbols) {
    if (!remaining.joined_away) tokens.push_back(remaining.token);
  }
}

void byte_pairs::append_tokens(std::string_view text, std::vector<token_number>& tokens) const {
  if (settings_.ignores_merges && text.size() <= words_.bytes_max()) {
    if (auto whole = words_.find(text)) {
      tokens.push_back(*whole);
      return;
    }
  }
  std::vector<token_number> symbols;
  symbols.reserve(text.size());
  split(text, symbols);
  symbols.size() <= short_piece ? join_short(symbols) : join(symbols);
  tokens.insert(tokens.end(), symbols.begin(), symbols.end());
}

}  // namespace troupe::model
