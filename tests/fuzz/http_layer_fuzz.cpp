// The body of POST /v1/layers/{layer}: whatever comes in, either a job whose rows may be read, or an error with a text.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "common/http/target.hpp"
#include "model/description.hpp"
#include "router_node/shell/http_endpoints.hpp"

namespace {

using namespace troupe;

router::model_plan make_plan() {
  model::description model;
  model::moe_layer layer;
  layer.id = layer_id::of(0);
  layer.gate.num_experts = 4;
  layer.gate.top_k = 2;
  layer.shape.hidden = 4;
  model.layers.push_back(layer);
  return router::model_plan::make(model, dtype::f32);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto plan = make_plan();
  const auto body = std::make_shared<const std::string>(reinterpret_cast<const char*>(data), size);
  const auto job = router::parse_layer_body(plan, "0", body, {});
  if (job) {
    std::uint64_t sum = 0;
    for (const auto byte : job->hidden.bytes) sum += static_cast<std::uint64_t>(byte);
    const auto wanted = job->hidden.shape[0] * 4 * bytes_per_element(job->hidden.type);
    if (sum > 255 * size || job->hidden.bytes.size() != wanted) std::abort();
  } else if (job.error().reason.message.empty()) {
    std::abort();
  }
  std::string path;
  std::string query;
  if (http::split_target(*body, path, query)) (void)http::match_path("/v1/layers/{layer}", path);
  (void)http::split_endpoint(*body);
  return 0;
}
