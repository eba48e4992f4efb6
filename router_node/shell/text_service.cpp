#include "router_node/shell/text_service.hpp"

#include <algorithm>
#include <ctime>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/limits.hpp"
#include "model/chat_template/chat_template.hpp"
#include "model/checkpoint.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "router_node/shell/generation_engine.hpp"
#include "router_node/shell/openai_doors.hpp"
#include "router_node/shell/text_source.hpp"
#include "router_node/trunk/trunk.hpp"

namespace troupe::router {

struct text_service::parts {
  std::unique_ptr<trunk> model;
  std::unique_ptr<const model::tokenizer> tokenizer;
  std::unique_ptr<const model::chat_template> chat_template;
  served_model served;
  generation_metrics metrics;
  std::unique_ptr<generation_engine> engine;
  std::unique_ptr<openai_doors> doors;
};

namespace {

std::uint64_t default_kv_bytes(const model::trunk_description& t, dtype type) {
  const auto per_token = 2 * t.blocks.size() * t.kv_heads * t.head_dim * bytes_per_element(type);
  return std::min(limits::kv_default_texts * t.context_tokens * per_token, limits::kv_default_bytes_max);
}

}  // namespace

// Without a usable tokenizer token ids still work (faults.md C7).
void text_service::open_tokenizer(const std::filesystem::path& folder, parts& p) {
  auto opened = model::tokenizer::open(folder);
  if (!opened) {
    p.served.no_tokenizer = opened.error().message;
  } else if ((*opened)->size() > p.model->vocabulary()) {
    p.served.no_tokenizer =
        fmt::format("the tokenizer has {} tokens and the embedding table {} rows; fix the checkpoint",
                    (*opened)->size(), p.model->vocabulary());
  } else {
    p.tokenizer = std::move(*opened);
    p.served.tokenizer = p.tokenizer.get();
    return;
  }
  spdlog::warn("token ids only, no texts: {}", p.served.no_tokenizer);
}

void text_service::open_chat_template(const std::filesystem::path& folder, parts& p) {
  auto opened = model::chat_template::open(folder);
  if (opened) {
    p.chat_template = std::move(*opened);
    p.served.chat_template = p.chat_template.get();
    return;
  }
  p.served.no_chat_template = opened.error().message;
  spdlog::warn("no chats: {}", p.served.no_chat_template);
}

text_service::text_service(std::unique_ptr<parts> p) : parts_(std::move(p)) {}
text_service::~text_service() = default;

result<std::unique_ptr<text_service>> text_service::open(const model::checkpoint& checkpoint, const model_plan& plan,
                                                         const text_options& options) {
  if (!trunk::is_supported(checkpoint.model())) {
    return fail(errc::invalid_request,
                fmt::format("{} is served layer by layer; texts come of mixtral, qwen2_moe, qwen3_moe, olmoe",
                            checkpoint.model().family));
  }
  auto p = std::make_unique<parts>();
  auto description = checkpoint.trunk();
  if (!description) return fail(description.error());
  const auto kv_bytes = options.kv_bytes != 0 ? options.kv_bytes : default_kv_bytes(*description, options.type);
  auto opened = trunk::make(checkpoint, {.type = options.type, .threads = options.threads, .kv_bytes = kv_bytes});
  if (!opened) return fail(opened.error());
  p->model = std::move(*opened);
  p->served = {.name = checkpoint.model().name, .fingerprint = checkpoint.model().fingerprint.substr(0, 16)};
  open_tokenizer(options.model, *p);
  open_chat_template(options.model, *p);
  p->engine = std::make_unique<generation_engine>(engine_settings{.model = p->model.get(),
                                                                  .plan = &plan,
                                                                  .tokenizer = p->tokenizer.get(),
                                                                  .metrics = &p->metrics,
                                                                  .pins = options.pins});
  p->served.limits = p->engine->limits();
  return std::unique_ptr<text_service>(new text_service(std::move(p)));
}

generation_gateway& text_service::gateway() { return *parts_->engine; }
const served_model& text_service::model() const { return parts_->served; }

std::shared_ptr<const text_source> text_service::source() const {
  auto made = std::make_shared<text_source>();
  made->engine = parts_->engine.get();
  if (const auto* tokenizer = parts_->tokenizer.get()) {
    made->encode = [tokenizer](std::string_view text, bool add_special) {
      return tokenizer->encode(text, add_special);
    };
    made->decode = [tokenizer](std::span<const token_number> tokens, bool skip_special) {
      return tokenizer->decode(tokens, skip_special);
    };
    made->text_of = [tokenizer](token_number token) { return tokenizer->decode({&token, 1}, false); };
  }
  if (const auto* chat = parts_->chat_template.get()) {
    made->render = [chat](std::string_view messages_json) {
      const auto now = std::time(nullptr);
      std::tm local{};
      localtime_r(&now, &local);
      return chat->render({.messages = messages_json, .local_seconds = now + local.tm_gmtoff});
    };
  }
  return made;
}

std::vector<http::route> text_service::routes(std::function<void(text_outcome)> on_outcome) {
  parts_->doors = std::make_unique<openai_doors>(
      openai_settings{.model = parts_->served, .gateway = parts_->engine.get(), .on_outcome = std::move(on_outcome)});
  return parts_->doors->routes();
}

void text_service::collect(std::vector<http::metric_family>& families) const { parts_->metrics.collect(families); }
text_load text_service::load() const { return parts_->metrics.load(); }
std::size_t text_service::waiting() const { return parts_->engine->waiting(); }
void text_service::run(layer_gateway& experts) { parts_->engine->run(experts); }
void text_service::change_model(model_change change) { parts_->engine->change_model(std::move(change)); }
epoch_number text_service::uses_since() const { return parts_->engine->uses_since(); }
void text_service::stop(std::chrono::milliseconds grace) { parts_->engine->stop(grace); }

std::string text_service::describe() const {
  const auto& model = *parts_->model;
  return fmt::format("texts of up to {} tokens, {} blocks of {} tokens for keys and values",
                     parts_->engine->limits().context_tokens, model.kv_blocks(), model.block_tokens());
}

}  // namespace troupe::router
