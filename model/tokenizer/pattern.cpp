#include "model/tokenizer/pattern.hpp"

#include <array>
#include <limits>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <fmt/format.h>

#include "common/limits.hpp"
#include "model/problem_list.hpp"
#include "model/tokenizer/regex_dialect.hpp"
#include "model/tokenizer/unicode.hpp"

namespace troupe::model {
namespace {

template <auto Release>
struct releases {
  void operator()(auto* object) const { Release(object); }
};
using code_ptr = std::unique_ptr<pcre2_code, releases<pcre2_code_free>>;
using compile_context_ptr = std::unique_ptr<pcre2_compile_context, releases<pcre2_compile_context_free>>;
using match_context_ptr = std::unique_ptr<pcre2_match_context, releases<pcre2_match_context_free>>;
using match_data_ptr = std::unique_ptr<pcre2_match_data, releases<pcre2_match_data_free>>;

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct pattern::compiled {
  code_ptr code;
  match_context_ptr context;
};

pattern pattern::literal(std::string text) {
  pattern made;
  made.match_bytes_min_ = text.size();
  made.text_ = std::move(text);
  return made;
}

result<pattern> pattern::regex(std::string_view expression) {
  if (expression.size() > limits::regex_bytes_max) {
    return fail(errc::too_large,
                fmt::format("a pattern of {} bytes; at most {} are read", expression.size(), limits::regex_bytes_max));
  }
  auto translated = to_pcre2(expression);
  if (!translated) return fail(translated.error());
  compile_context_ptr settings{pcre2_compile_context_create(nullptr)};
  if (!settings) return fail(errc::out_of_memory, "no memory for a pattern");
  pcre2_set_newline(settings.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ always stand for the borders of lines.
  constexpr auto options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  auto made = std::make_shared<compiled>();
  made->code.reset(pcre2_compile(units(*translated), translated->size(), options, &error, &offset, settings.get()));
  if (!made->code) {
    return fail(errc::invalid_request,
                fmt::format("pattern \"{}\": {}", printable(expression), printable(message_of(error))));
  }
  // Where no machine code can be made (hardened kernels), matching is slower and else the same.
  static_cast<void>(pcre2_jit_compile(made->code.get(), PCRE2_JIT_COMPLETE));
  made->context.reset(pcre2_match_context_create(nullptr));
  if (!made->context) return fail(errc::out_of_memory, "no memory for a pattern");
  pcre2_set_match_limit(made->context.get(), limits::regex_steps_max);
  pcre2_set_heap_limit(made->context.get(), limits::regex_memory_max / limits::kib);
  std::uint32_t shortest = 0;
  pcre2_pattern_info(made->code.get(), PCRE2_INFO_MINLENGTH, &shortest);
  pattern ready;
  ready.match_bytes_min_ = shortest;  // in characters, so at least as many bytes
  ready.expression_ = std::move(made);
  return ready;
}

std::vector<match_range> pattern::find_all(std::string_view text) const {
  std::vector<match_range> found;
  if (!text.empty()) expression_ ? find_expression(text, found) : find_literal(text, found);
  auto covered = found.empty() ? 0 : found.back().end;
  if (covered != text.size()) found.push_back({covered, text.size(), false});
  return found;
}

void pattern::find_literal(std::string_view text, std::vector<match_range>& found) const {
  std::size_t covered = 0;
  while (!text_.empty()) {
    auto begin = text.find(text_, covered);
    if (begin == std::string_view::npos) return;
    if (begin > covered) found.push_back({covered, begin, false});
    covered = begin + text_.size();
    found.push_back({begin, covered, true});
  }
}

void pattern::find_expression(std::string_view text, std::vector<match_range>& found) const {
  match_data_ptr data{pcre2_match_data_create(1, nullptr)};
  if (!data) return;
  auto search = [&](std::size_t from, std::uint32_t options) {
    return pcre2_match(expression_->code.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK | options,
                       data.get(), expression_->context.get());
  };
  const auto* range = pcre2_get_ovector_pointer(data.get());
  std::size_t covered = 0;
  std::size_t from = 0;
  while (from <= text.size()) {
    auto outcome = search(from, 0);
    if (outcome == PCRE2_ERROR_JIT_STACKLIMIT) outcome = search(from, PCRE2_NO_JIT);
    if (outcome < 0) return;  // no match, or too many steps
    auto begin = range[0];
    auto end = range[1];
    if (begin == end && !found.empty() && covered == end) {  // nothing matches right behind a match
      if (from >= text.size()) return;
      static_cast<void>(take_character(text, from));
      continue;
    }
    if (begin > covered) found.push_back({covered, begin, false});
    found.push_back({begin, end, true});
    covered = from = end;
  }
}

std::string replace_matches(std::string_view text, const std::vector<match_range>& ranges, std::string_view content) {
  std::string replaced;
  replaced.reserve(text.size());
  for (const auto& range : ranges)
    replaced += range.matched ? content : text.substr(range.begin, range.end - range.begin);
  return replaced;
}

bool pattern::is_one_character() const {
  if (expression_ || text_.empty()) return false;
  auto step = next_utf8(text_);
  return step.state == utf8_state::valid && step.bytes == text_.size();
}

}  // namespace troupe::model
