#include "cli/token_sources.hpp"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "cli/http_client.hpp"
#include "cli/interrupt.hpp"
#include "common/limits.hpp"
#include "troupe/client.hpp"

namespace troupe::cli {
namespace {

class client_source final : public token_source {
 public:
  explicit client_source(client::cluster cluster) : cluster_(std::move(cluster)) {}

  [[nodiscard]] result<void> ask(std::span<const std::uint32_t> prompt, std::uint32_t output_tokens,
                                 const std::function<void(std::uint32_t)>& on_tokens) override {
    client::generate_options options;
    options.max_tokens = output_tokens;
    options.temperature = 0.0F;
    options.ignore_eos = true;
    options.logprobs = false;
    options.is_wanted = [] { return interrupt_count() == 0; };
    try {
      cluster_.generate(client::token_ids(prompt.begin(), prompt.end()), options, [&](const client::token& token) {
        if (token.id) on_tokens(1);
        return interrupt_count() == 0;
      });
    } catch (const client::error& problem) {
      return fail(static_cast<errc>(problem.code()), problem.what());
    }
    return {};
  }

 private:
  client::cluster cluster_;
};

// -- HTTP -----------------------------------------------------------------------------------------------------------

class http_source final : public token_source {
 public:
  http_source(const std::string& url, std::string model) : url_(url + "/v1/completions"), model_(std::move(model)) {}

  [[nodiscard]] result<void> ask(std::span<const std::uint32_t> prompt, std::uint32_t output_tokens,
                                 const std::function<void(std::uint32_t)>& on_tokens) override;

 private:
  struct answer {
    event_reader events;
    const std::function<void(std::uint32_t)>* on_tokens{};
    std::uint32_t told{};  // tokens
    std::string error;
    std::string head;  // the body's beginning, for answers that are no events
  };
  static bool on_bytes(answer& got, std::string_view bytes);
  static void on_event(answer& got, std::string_view data);

  std::string url_;
  std::string model_;
};

bool http_source::on_bytes(answer& got, std::string_view bytes) {
  constexpr std::size_t head_max = 4096;
  got.head.append(bytes.substr(0, std::min(bytes.size(), head_max - std::min(got.head.size(), head_max))));
  return got.events.push(bytes, [&](std::string_view event) { on_event(got, event); });
}

bool brings_text(const nlohmann::json& choice) {
  if (!choice.is_object() || !choice.value("finish_reason", nlohmann::json{}).is_null()) return false;
  const auto text = choice.find("text");
  return text != choice.end() && text->is_string() && !text->get_ref<const std::string&>().empty();
}

// A chunk with text is a token, at its time. The last chunk may be none, and some tokens have no text yet: the usage in
// the end says how many there were, and those that no chunk told came with it.
void http_source::on_event(answer& got, std::string_view data) {
  if (data == "[DONE]") return;
  const auto document = nlohmann::json::parse(data, nullptr, false);
  if (!document.is_object()) return;
  if (const auto error = document.find("error"); error != document.end()) {
    got.error = error->value("message", "the server gave no reason");
    return;
  }
  const auto choices = document.find("choices");
  if (choices != document.end() && choices->is_array() && !choices->empty() && brings_text((*choices)[0])) {
    ++got.told;
    (*got.on_tokens)(1);
  }
  const auto usage = document.find("usage");
  if (usage == document.end() || !usage->is_object()) return;
  const auto all = usage->value("completion_tokens", 0U);
  if (all > got.told) (*got.on_tokens)(all - std::exchange(got.told, all));
}

result<void> http_source::ask(std::span<const std::uint32_t> prompt, std::uint32_t output_tokens,
                              const std::function<void(std::uint32_t)>& on_tokens) {
  const nlohmann::json body = {{"model", model_},
                               {"prompt", std::vector<std::uint32_t>(prompt.begin(), prompt.end())},
                               {"max_tokens", output_tokens},
                               {"temperature", 0},
                               {"ignore_eos", true},
                               {"stream", true},
                               {"stream_options", {{"include_usage", true}}}};
  answer got;
  got.on_tokens = &on_tokens;
  bool is_event = true;
  const auto status = http_post(
      url_, body.dump(), [&](std::string_view bytes) { return is_event = on_bytes(got, bytes); },
      [] { return interrupt_count() == 0; }, limits::generation_timeout_default);
  if (!status) return fail(status.error());
  if (!is_event) return fail(errc::corrupt, fmt::format("{} sent an event of more than a megabyte", url_));
  if (interrupt_count() != 0) return {};
  if (*status != 200) return fail(errc::internal, fmt::format("{} answered {}: {}", url_, *status, got.head));
  if (!got.error.empty()) return fail(errc::internal, got.error);
  return {};
}

}  // namespace

bool event_reader::push(std::string_view bytes, const std::function<void(std::string_view)>& on_data) {
  while (!bytes.empty()) {
    const auto end = bytes.find('\n');
    line_.append(bytes.substr(0, end));
    if (line_.size() > limits::mib) return false;
    if (end == std::string_view::npos) return true;
    bytes.remove_prefix(end + 1);
    if (line_.ends_with('\r')) line_.pop_back();
    std::string_view line = line_;
    if (line.starts_with("data:")) {
      line.remove_prefix(5);
      if (line.starts_with(' ')) line.remove_prefix(1);
      on_data(line);
    }
    line_.clear();
  }
  return true;
}

result<std::unique_ptr<token_source>> make_client_source(const std::filesystem::path& data_dir) {
  try {
    client::connect_options where;
    where.data_dir = data_dir;
    return std::make_unique<client_source>(client::cluster::connect(where));
  } catch (const client::error& problem) {
    return fail(static_cast<errc>(problem.code()), problem.what());
  }
}

result<std::unique_ptr<token_source>> make_http_source(const std::string& url, const std::string& model) {
  if (auto where = http_url::parse(url); !where) return fail(where.error());
  return std::make_unique<http_source>(url, model);
}

}  // namespace troupe::cli
