// What a router needs to answer with text: trunk, tokenizer, chat template, generation engine. A model of another
// family has none of it and serves single layers; one without a usable tokenizer takes and gives token ids only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/error.hpp"
#include "common/http/message.hpp"
#include "common/http/metrics.hpp"
#include "common/tensor.hpp"
#include "router_node/core/generation.hpp"
#include "router_node/core/generation/version_history.hpp"

namespace troupe::model {
class checkpoint;
}

namespace troupe::router {

class layer_gateway;
class model_plan;
struct served_model;
struct text_source;
struct text_load;
enum class text_outcome : std::uint8_t;

struct text_options {
  std::filesystem::path model;  // folder
  dtype type{dtype::f32};
  std::uint32_t threads{1};
  std::uint64_t kv_bytes{};  // 0: limits::kv_default_*
  bool pins{};               // engine_settings::pins
};

class text_service {
 public:
  // invalid_request: this checkpoint gives no text (another family, or tensors of the trunk are missing), but its
  // layers can be served all the same; out_of_memory. Tokenizer and chat template may be missing or unusable: why is
  // logged, and said to whoever asks for text. `plan` is borrowed.
  [[nodiscard]] static result<std::unique_ptr<text_service>> open(const model::checkpoint& checkpoint,
                                                                  const model_plan& plan, const text_options& options);
  ~text_service();
  text_service(const text_service&) = delete;
  text_service& operator=(const text_service&) = delete;

  [[nodiscard]] generation_gateway& gateway();
  // The model as doors see it; its pointers live as long as the service.
  [[nodiscard]] const served_model& model() const;
  // The same for the ZeroMQ door.
  [[nodiscard]] std::shared_ptr<const text_source> source() const;
  // The OpenAI doors. To be called once; the service outlives the server. `on_outcome`: openai_settings::on_outcome.
  [[nodiscard]] std::vector<http::route> routes(std::function<void(text_outcome)> on_outcome);
  [[nodiscard]] std::string describe() const;  // for the log
  [[nodiscard]] std::size_t waiting() const;   // any thread; as of generation_engine
  void collect(std::vector<http::metric_family>& families) const;
  [[nodiscard]] text_load load() const;  // any thread

  // The engine's thread; returns after stop().
  void run(layer_gateway& experts);
  // Any thread; as of generation_engine.
  void change_model(model_change change);
  [[nodiscard]] epoch_number uses_since() const;
  void stop(std::chrono::milliseconds grace);

 private:
  struct parts;
  static void open_tokenizer(const std::filesystem::path& folder, parts& p);
  static void open_chat_template(const std::filesystem::path& folder, parts& p);
  explicit text_service(std::unique_ptr<parts> p);
  std::unique_ptr<parts> parts_;
};

}  // namespace troupe::router
