// The router's HTTP routes beside the probes and the texts: POST /v1/layers/{layer}, GET /v1/models and its entries.
// Handlers run on the HTTP server's thread; layer jobs go to the router's thread through `layer_gateway`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"
#include "common/http/message.hpp"
#include "router_node/core/layer_plan.hpp"
#include "router_node/shell/layer_job.hpp"

namespace troupe::model {
struct description;
}

namespace troupe::router {

// The way to the router's thread. Any thread.
class layer_gateway {
 public:
  virtual ~layer_gateway() = default;
  // A number for cancel(). overloaded when too many wait; job.done is not called then.
  [[nodiscard]] virtual result<std::uint64_t> submit(layer_job job) = 0;
  virtual void cancel(std::uint64_t number) = 0;
};

// An error with the field that it is about ("hidden", "degrade"), for the OpenAI error object.
struct field_error {
  error reason;
  std::string field;
};

// The body of POST /v1/layers/{layer} as a job without `done`. Pure; what the fuzzer calls.
[[nodiscard]] tl::expected<layer_job, field_error> parse_layer_body(const model_plan& plan, std::string_view layer,
                                                                    std::shared_ptr<const std::string> body,
                                                                    time_point now);

// The body of the answer.
[[nodiscard]] std::string write_layer_body(const layer_answer& answer);

// `plan`, `gateway` and `model` outlive the server. `context_tokens`: what prompt and answer may have together, of
// models that answer with text; 0 otherwise. `limit` and `explore_bias`: what approximates the model's routing.
// `count_masked`: experts that no row may choose now; any thread.
[[nodiscard]] std::vector<http::route> layer_routes(const model_plan& plan, const model::description& model,
                                                    layer_gateway& gateway, std::uint32_t context_tokens,
                                                    const model::group_limit& limit, double explore_bias,
                                                    std::function<std::uint64_t()> count_masked);

}  // namespace troupe::router
