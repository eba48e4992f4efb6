#include "router_node/core/generation/answer.hpp"

#include <algorithm>
#include <utility>

namespace troupe::router {
namespace {

// So much of the prompt is enough for a decoder to know whether a word begins (Metaspace drops the very first space).
constexpr std::size_t context_tokens = 8;

}  // namespace

answer::answer(const generation_request& request, const model::tokenizer* tokenizer,
               std::span<const token_number> end_tokens)
    : request_(request), stops_(request.stop) {
  if (!request.ignore_eos) end_tokens_.assign(end_tokens.begin(), end_tokens.end());
  end_tokens_.insert(end_tokens_.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  if (tokenizer != nullptr) {
    decoder_.emplace(*tokenizer, request.skips_special);
    const std::span prompt{request.prompt};
    decoder_->prime(prompt.last(std::min(prompt.size(), context_tokens)));
  }
  std::string sent;  // by the router that began
  for (const auto id : request.resumed) {
    if (!is_over()) take(id, sent);
  }
}

bool answer::is_end_token(token_number id) const { return std::ranges::find(end_tokens_, id) != end_tokens_.end(); }

void answer::take(token_number id, std::string& text) {
  tokens_.push_back(id);
  if (is_end_token(id)) {
    reason_ = finish_reason::stop;
    return;
  }
  if (decoder_) {
    const auto shown = stops_.push(decoder_->push(id));
    text += shown.text;
    if (shown.match) {
      stop_match_ = shown.match;
      reason_ = finish_reason::stop;
      return;
    }
  }
  if (tokens_.size() >= request_.max_tokens) reason_ = finish_reason::length;
}

answer::told answer::add(token_event event) {
  event.position = static_cast<std::uint32_t>(tokens_.size());
  approximate_ += event.flags != 0 ? 1 : 0;
  take(event.id, event.text);
  told said{.event = std::move(event), .end = {}};
  said.event.is_last = is_over();
  if (is_over()) said.end = finish();
  return said;
}

generation_end answer::finish() {
  generation_end end;
  end.reason = reason_.value_or(finish_reason::stop);
  end.stop_match = stop_match_;
  if (decoder_ && !stop_match_) {
    auto last = stops_.push(decoder_->finish());
    end.text = std::move(last.text);
    if (last.match) {
      end.stop_match = std::move(last.match);
      end.reason = finish_reason::stop;
    } else {
      end.text += stops_.finish();
    }
  }
  end.prompt_tokens = static_cast<std::uint32_t>(request_.prompt.size());
  end.answer_tokens = static_cast<std::uint32_t>(tokens_.size());
  end.approximate_tokens = approximate_;
  return end;
}

}  // namespace troupe::router
