#include "model/tokenizer/sentencepiece_models.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

constexpr std::uint32_t nowhere = std::numeric_limits<std::uint32_t>::max();

std::size_t character_bytes(std::string_view text) {
  std::size_t end = 0;
  static_cast<void>(take_character(text, end));
  return end;
}

// Joins the neighbours that together are the piece of the best score until none is left.
class sentencepiece_byte_pairs final : public subword_model {
 public:
  explicit sentencepiece_byte_pairs(const sentencepiece_file& file) : table_(file) {}
  void append_tokens(std::string_view text, std::vector<token_number>& tokens) const override;

 private:
  struct symbol {
    std::string_view text;  // empty: joined to the one before
    std::uint32_t previous;
    std::uint32_t next;
    bool frozen;  // a user defined piece, joined to nothing
  };
  struct candidate {
    float score;
    std::uint32_t left;
    std::uint32_t right;
    std::size_t bytes;
    bool operator<(const candidate& other) const {
      return score != other.score ? score < other.score : left > other.left;
    }
  };
  // How an unused piece was made, to take it apart again.
  using halves = std::unordered_map<std::string_view, std::pair<std::string_view, std::string_view>>;

  [[nodiscard]] std::vector<symbol> split(std::string_view text) const;
  [[nodiscard]] halves join(std::vector<symbol>& symbols) const;
  void write(std::string_view text, const halves& made_of, piece_table::writer& out) const;

  piece_table table_;
};

std::vector<sentencepiece_byte_pairs::symbol> sentencepiece_byte_pairs::split(std::string_view text) const {
  std::vector<symbol> symbols;
  while (!text.empty()) {
    auto fixed = table_.user_defined_at(text);
    auto bytes = fixed > 0 ? fixed : character_bytes(text);
    auto place = static_cast<std::uint32_t>(symbols.size());
    symbols.push_back({text.substr(0, bytes), place == 0 ? nowhere : place - 1, place + 1, fixed > 0});
    text.remove_prefix(bytes);
  }
  if (!symbols.empty()) symbols.back().next = nowhere;
  return symbols;
}

sentencepiece_byte_pairs::halves sentencepiece_byte_pairs::join(std::vector<symbol>& symbols) const {
  halves made_of;
  std::priority_queue<candidate> waiting;
  auto consider = [&](std::uint32_t left, std::uint32_t right) {
    if (left == nowhere || right == nowhere || symbols[left].frozen || symbols[right].frozen) return;
    auto first = symbols[left].text;
    auto second = symbols[right].text;
    const std::string_view both{first.data(), first.size() + second.size()};  // they are neighbours in the text
    const auto* found = table_.find(both);
    if (found == nullptr) return;
    waiting.push({found->score, left, right, both.size()});
    if (found->kind == piece_kind::unused) made_of[both] = {first, second};
  };
  for (std::uint32_t i = 1; i < symbols.size(); ++i) consider(i - 1, i);
  while (!waiting.empty()) {
    auto best = waiting.top();
    waiting.pop();
    auto& left = symbols[best.left];
    auto& right = symbols[best.right];
    bool is_stale = left.text.empty() || right.text.empty() || left.text.size() + right.text.size() != best.bytes;
    if (is_stale) continue;
    left.text = {left.text.data(), best.bytes};
    left.next = right.next;
    if (right.next != nowhere) symbols[right.next].previous = best.left;
    right.text = {};
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  return made_of;
}

void sentencepiece_byte_pairs::write(std::string_view text, const halves& made_of, piece_table::writer& out) const {
  std::vector<std::string_view> parts{text};  // the next one last
  while (!parts.empty()) {
    auto part = parts.back();
    parts.pop_back();
    const auto* found = table_.find(part);
    auto taken_apart = found != nullptr && found->kind == piece_kind::unused ? made_of.find(part) : made_of.end();
    if (taken_apart == made_of.end()) {
      out.put(part, found);
      continue;
    }
    parts.push_back(taken_apart->second.second);
    parts.push_back(taken_apart->second.first);
  }
}

void sentencepiece_byte_pairs::append_tokens(std::string_view text, std::vector<token_number>& tokens) const {
  auto symbols = split(text);
  auto made_of = join(symbols);
  piece_table::writer out{table_, tokens};
  for (const auto& remaining : symbols) {
    if (!remaining.text.empty()) write(remaining.text, made_of, out);
  }
}

// The segmentation of the largest probability (Kudo, https://aclanthology.org/P18-1007), found by Viterbi's algorithm.
class unigram final : public subword_model {
 public:
  explicit unigram(const sentencepiece_file& file) : table_(file) {}
  void append_tokens(std::string_view text, std::vector<token_number>& tokens) const override;

 private:
  struct step {
    const piece_table::entry* piece{};  // nullptr: unknown
    std::size_t begin{std::string_view::npos};
    float score{};  // of the best way to here
  };
  void extend(std::string_view text, std::size_t begin, std::vector<step>& best) const;

  piece_table table_;
};

void unigram::extend(std::string_view text, std::size_t begin, std::vector<step>& best) const {
  constexpr float unknown_penalty = 10;
  const float before = best[begin].score;
  // Kept in single and compared in double precision, as the library does: ties end the same way.
  auto improve = [&](std::size_t end, double score, const piece_table::entry* found) {
    if (best[end].begin != std::string_view::npos && score <= double{best[end].score}) return;
    best[end] = {found, begin, static_cast<float>(score)};
  };
  const auto first = character_bytes(text.substr(begin));
  bool has_single = false;
  const auto last = std::min(text.size(), begin + table_.bytes_max());
  for (auto end = begin + first; end <= last; end += character_bytes(text.substr(end))) {
    const auto* found = table_.find(text.substr(begin, end - begin));
    if (found != nullptr && found->kind != piece_kind::unused) {
      // A user defined piece always wins.
      auto bonus = double{static_cast<float>(end - begin) * table_.score_max()} - 0.1;
      auto score = found->kind == piece_kind::user_defined ? bonus : double{found->score};
      improve(end, score + double{before}, found);
      has_single = has_single || end == begin + first;
    }
    if (end == text.size()) break;
  }
  if (!has_single) improve(begin + first, double{table_.score_min() - unknown_penalty + before}, nullptr);
}

void unigram::append_tokens(std::string_view text, std::vector<token_number>& tokens) const {
  std::vector<step> best(text.size() + 1);
  for (std::size_t begin = 0; begin < text.size(); begin += character_bytes(text.substr(begin)))
    extend(text, begin, best);
  std::vector<std::size_t> ends;
  for (auto end = text.size(); end > 0; end = best[end].begin) ends.push_back(end);
  piece_table::writer out{table_, tokens};
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    out.put(text.substr(best[*end].begin, *end - best[*end].begin), best[*end].piece);
  }
}

}  // namespace

piece_table::piece_table(const sentencepiece_file& file)
    : score_min_(std::numeric_limits<float>::max()), score_max_(std::numeric_limits<float>::lowest()) {
  if (file.falls_back_to_bytes) bytes_.resize(256);
  for (token_number number = 0; number < file.pieces.size(); ++number) {
    const auto& piece = file.pieces[number];
    switch (piece.kind) {
      case piece_kind::unknown:
        unknown_ = number;
        break;
      case piece_kind::byte:
        bytes_[*byte_of_token(piece.text)] = number;
        break;
      case piece_kind::control:
        break;
      case piece_kind::normal:
        score_min_ = std::min(score_min_, piece.score);
        score_max_ = std::max(score_max_, piece.score);
        [[fallthrough]];
      case piece_kind::unused:
      case piece_kind::user_defined:
        entries_.emplace(piece.text, entry{number, piece.score, piece.kind});
        bytes_max_ = std::max(bytes_max_, piece.text.size());
        if (piece.kind == piece_kind::user_defined) user_defined_bytes_.push_back(piece.text.size());
    }
  }
  auto& lengths = user_defined_bytes_;
  std::sort(lengths.begin(), lengths.end(), std::greater<>{});
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
}

const piece_table::entry* piece_table::find(std::string_view text) const {
  if (text.size() > bytes_max_) return nullptr;
  auto found = entries_.find(text);
  return found == entries_.end() ? nullptr : &found->second;
}

std::size_t piece_table::user_defined_at(std::string_view text) const {
  for (auto bytes : user_defined_bytes_) {
    if (bytes > text.size()) continue;
    const auto* found = find(text.substr(0, bytes));
    if (found != nullptr && found->kind == piece_kind::user_defined) return bytes;
  }
  return 0;
}

void piece_table::writer::put(std::string_view text, const entry* found) {
  if (found != nullptr) {
    tokens_.push_back(found->number);
  } else if (!table_.bytes_.empty()) {
    for (char byte : text) tokens_.push_back(table_.bytes_[static_cast<unsigned char>(byte)]);
  } else if (!after_unknown_) {
    tokens_.push_back(table_.unknown_);
  }
  after_unknown_ = found == nullptr;
}

std::unique_ptr<const subword_model> make_sentencepiece_model(const sentencepiece_file& file) {
  if (file.algorithm == piece_algorithm::byte_pairs) return std::make_unique<sentencepiece_byte_pairs>(file);
  return std::make_unique<unigram>(file);
}

}  // namespace troupe::model
