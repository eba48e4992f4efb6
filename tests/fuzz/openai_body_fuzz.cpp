// Bodies of the text doors: whatever comes in, either jobs within the model's limits, or a refusal with a text.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "model/chat_template/chat_template.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "router_node/shell/openai_request.hpp"

namespace {

using namespace troupe;

// Bytes "a" to "z" and blank: enough of a tokenizer.
constexpr const char* small_tokenizer = R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
  "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
  "model": {"type": "BPE", "dropout": null, "unk_token": "?", "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": {"?": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}})";

template <class Outcome>
void check(const Outcome& read, const router::served_model& model) {
  if (!read) {
    if (read.error().reason.message.empty()) std::abort();
    return;
  }
  for (const auto& job : router::jobs_of(*read)) {
    const auto total = job.prompt.size() + (read->hides_answer ? 0 : job.max_tokens);
    if (job.prompt.empty() || job.max_tokens == 0 || total > model.limits.context_tokens) std::abort();
    for (const auto token : job.prompt) {
      if (token >= model.limits.vocabulary) std::abort();
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto tokenizer = model::tokenizer::parse(small_tokenizer);
  static const auto chat =
      model::chat_template::parse("{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}");
  if (!tokenizer || !chat) std::abort();
  const router::served_model model{
      .name = "m", .limits = {4, 64}, .tokenizer = tokenizer->get(), .chat_template = chat->get()};
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  check(router::read_completion(model, body, {}), model);
  check(router::read_chat(model, body, {}), model);
  (void)router::answer_tokenize(model, body);
  (void)router::answer_detokenize(model, body);
  return 0;
}
