#include "cli/token_sources.hpp"

#include <curl/curl.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <utility>

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

struct curl_end {
  void operator()(CURL* handle) const { ::curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { ::curl_slist_free_all(list); }
};

class http_source final : public token_source {
 public:
  http_source(std::string url, std::string model, std::unique_ptr<CURL, curl_end> handle)
      : url_(std::move(url) + "/v1/completions"), model_(std::move(model)), handle_(std::move(handle)) {}

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
  static std::size_t on_bytes(char* data, std::size_t size, std::size_t count, void* target);
  static int on_progress(void*, curl_off_t, curl_off_t, curl_off_t, curl_off_t) { return interrupt_count() != 0; }
  static void on_event(answer& got, std::string_view data);

  std::string url_;
  std::string model_;
  std::unique_ptr<CURL, curl_end> handle_;
};

std::size_t http_source::on_bytes(char* data, std::size_t size, std::size_t count, void* target) {
  auto& got = *static_cast<answer*>(target);
  const std::string_view bytes(data, size * count);
  got.head.append(
      bytes.substr(0, std::min<std::size_t>(bytes.size(), 4096 - std::min<std::size_t>(got.head.size(), 4096))));
  const bool fine = got.events.push(bytes, [&](std::string_view event) { on_event(got, event); });
  return fine ? bytes.size() : 0;
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
  const std::string text = body.dump();
  const std::unique_ptr<curl_slist, curl_end> headers(::curl_slist_append(nullptr, "Content-Type: application/json"));
  answer got;
  got.on_tokens = &on_tokens;
  auto* handle = handle_.get();
  ::curl_easy_setopt(handle, CURLOPT_URL, url_.c_str());
  ::curl_easy_setopt(handle, CURLOPT_HTTPHEADER, headers.get());
  ::curl_easy_setopt(handle, CURLOPT_POSTFIELDS, text.c_str());
  ::curl_easy_setopt(handle, CURLOPT_POSTFIELDSIZE, static_cast<long>(text.size()));
  ::curl_easy_setopt(handle, CURLOPT_WRITEFUNCTION, &on_bytes);
  ::curl_easy_setopt(handle, CURLOPT_WRITEDATA, &got);
  ::curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, &on_progress);
  ::curl_easy_setopt(handle, CURLOPT_NOPROGRESS, 0L);
  ::curl_easy_setopt(handle, CURLOPT_NOSIGNAL, 1L);
  ::curl_easy_setopt(handle, CURLOPT_PROXY, "");
  ::curl_easy_setopt(handle, CURLOPT_TIMEOUT, static_cast<long>(limits::generation_timeout_default.count()));
  const CURLcode code = ::curl_easy_perform(handle);
  if (code == CURLE_ABORTED_BY_CALLBACK) return {};
  if (code != CURLE_OK) {
    return fail(errc::unavailable, fmt::format("{} does not answer: {}", url_, ::curl_easy_strerror(code)));
  }
  long status = 0;
  ::curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &status);
  if (status != 200) return fail(errc::internal, fmt::format("{} answered {}: {}", url_, status, got.head));
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
  std::unique_ptr<CURL, curl_end> handle(::curl_easy_init());
  if (!handle) return fail(errc::internal, "libcurl cannot start; is memory left?");
  return std::make_unique<http_source>(url, model, std::move(handle));
}

}  // namespace troupe::cli
