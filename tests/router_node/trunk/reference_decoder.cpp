#include "tests/router_node/trunk/reference_decoder.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "common/limits.hpp"
#include "tests/model/reference_layer.hpp"

namespace troupe::router::test {
namespace {

template <class T>
T value_of(result<T> outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
  return std::move(*outcome);
}

void check(const result<void>& outcome) {
  if (!outcome) throw std::runtime_error(outcome.error().message);
}

constexpr std::uint64_t kv_bytes = 8 * limits::mib;

}  // namespace

reference_decoder::reference_decoder(const std::filesystem::path& folder, dtype type, std::uint32_t threads)
    : checkpoint_(value_of(model::checkpoint::open(folder))),
      trunk_(value_of(trunk::make(checkpoint_, {.type = type, .threads = threads, .kv_bytes = kv_bytes}))) {
  for (std::uint32_t start : {0U, 1U, 2U}) {
    for (std::uint32_t b = start; b < trunk_->kv_blocks(); b += 3) free_blocks_.push_back(b);
  }
}

void reference_decoder::make_room(sequence& of, std::uint32_t tokens) {
  while (of.blocks.size() * trunk_->block_tokens() < tokens) {
    if (free_blocks_.empty()) throw std::runtime_error("the test's KV memory is full");
    of.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
}

void reference_decoder::run_block(std::uint32_t block, std::span<const trunk_rows> rows, std::vector<float>& x) {
  std::vector<float> normed(x.size());
  check(trunk_->attend(block, rows, x.data(), normed.data()));
  if (!trunk_->is_moe(block)) {
    check(trunk_->add_dense(block, static_cast<std::uint32_t>(x.size() / trunk_->hidden()), normed.data(), x.data()));
    return;
  }
  const auto* layer = checkpoint_.model().find(layer_id::of(block));
  if (layer == nullptr) throw std::runtime_error("trunk and model disagree on which blocks have experts");
  auto added = model::test::run_layer(checkpoint_, *layer, normed).block;
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += added[i];
}

std::vector<float> reference_decoder::step(std::span<const step_piece> pieces) {
  std::vector<token_number> tokens;
  std::vector<trunk_rows> rows;
  for (const auto& piece : pieces) {
    auto& of = *piece.of;
    make_room(of, of.computed + piece.rows);
    auto begin = of.tokens.begin() + of.computed;
    tokens.insert(tokens.end(), begin, begin + piece.rows);
    rows.push_back({.first_position = of.computed,
                    .rows = piece.rows,
                    .blocks = of.blocks,
                    .known_tokens = static_cast<std::uint32_t>(of.tokens.size())});
  }
  std::vector<float> x(tokens.size() * trunk_->hidden());
  trunk_->embed(tokens, x.data());
  for (std::uint32_t block = 0; block < trunk_->layers(); ++block) run_block(block, rows, x);
  std::vector<std::uint32_t> all(tokens.size());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  std::vector<float> logits(tokens.size() * trunk_->vocabulary());
  check(trunk_->logits(all, x.data(), logits.data()));
  for (const auto& piece : pieces) piece.of->computed += piece.rows;
  return logits;
}

std::vector<float> reference_decoder::step(sequence& one, std::uint32_t rows) {
  step_piece piece{&one, rows};
  return step({&piece, 1});
}

void reference_decoder::append_greedy(sequence& to, std::span<const float> last_logits) const {
  auto row = last_logits.last(trunk_->vocabulary());
  to.tokens.push_back(static_cast<token_number>(std::ranges::max_element(row) - row.begin()));
}

std::vector<token_number> reference_decoder::continue_greedily(sequence& from, std::uint32_t tokens) {
  auto known = from.tokens.size();
  while (from.tokens.size() < known + tokens) {
    append_greedy(from, step(from, static_cast<std::uint32_t>(from.tokens.size()) - from.computed));
  }
  return {from.tokens.begin() + static_cast<std::ptrdiff_t>(known), from.tokens.end()};
}

double share_of_peak(std::span<const float> ours, std::span<const float> reference) {
  if (ours.size() != reference.size()) throw std::runtime_error("the sizes differ");
  double largest = 0;
  double peak = 0;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    auto off = std::abs(double{ours[i]} - double{reference[i]});
    if (!(off <= largest)) largest = off;  // NaN counts as the largest
    peak = std::max(peak, std::abs(double{reference[i]}));
  }
  return largest / peak;
}

}  // namespace troupe::router::test
