#include "router_node/shell/http_endpoints.hpp"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "common/http/errors.hpp"
#include "common/limits.hpp"
#include "model/description.hpp"
#include "model/safetensors.hpp"

namespace troupe::router {
namespace {

constexpr auto safetensors_type = "application/vnd.safetensors";

tl::unexpected<field_error> refuse(errc code, std::string message, std::string field) {
  return tl::unexpected(field_error{{code, std::move(message)}, std::move(field)});
}

tl::unexpected<field_error> refuse(error reason, std::string field) {
  return tl::unexpected(field_error{std::move(reason), std::move(field)});
}

using metadata_map = std::map<std::string, std::string>;

tl::expected<degrade, field_error> read_degrade(const metadata_map& metadata) {
  const auto at = metadata.find("degrade");
  if (at == metadata.end()) return degrade::wait;
  if (const auto policy = parse_degrade(at->second)) return *policy;
  return refuse(errc::invalid_request,
                fmt::format("degrade: '{}' is none of {}", at->second.substr(0, 32), degrade_names), "degrade");
}

tl::expected<std::chrono::milliseconds, field_error> read_timeout(const metadata_map& metadata) {
  const auto at = metadata.find("timeout_ms");
  if (at == metadata.end()) return request_timeout(0);
  std::uint64_t asked = 0;
  const auto* end = at->second.data() + at->second.size();
  const auto [stop, failure] = std::from_chars(at->second.data(), end, asked);
  if (failure != std::errc() || stop != end) {
    return refuse(errc::invalid_request,
                  fmt::format("timeout_ms: '{}' is no whole number of milliseconds", at->second.substr(0, 32)),
                  "timeout_ms");
  }
  return request_timeout(asked);
}

void handle_layer(const model_plan& plan, layer_gateway& gateway, http::request request,
                  const std::shared_ptr<http::exchange>& exchange) {
  auto body = std::make_shared<const std::string>(std::move(request.body));
  auto job = parse_layer_body(plan, request.parameter, std::move(body), std::chrono::steady_clock::now());
  if (!job) return exchange->reply(http::to_response(job.error().reason, job.error().field));
  job->done = [exchange](layer_outcome outcome) {
    if (!outcome) return exchange->reply(http::to_response(outcome.error()));
    exchange->reply_with([answer = std::move(*outcome)] {
      return http::response{.content_type = safetensors_type, .body = write_layer_body(*answer)};
    });
  };
  const auto number = gateway.submit(std::move(*job));
  if (!number) return exchange->reply(http::to_response(number.error()));
  exchange->on_cancel([&gateway, number = *number] { gateway.cancel(number); });
}

http::response json_answer(const nlohmann::json& document) {
  return {.body = document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

std::vector<http::route> model_routes(const model::description& model, std::uint32_t context_tokens,
                                      const model::group_limit& limit, double explore_bias,
                                      std::function<std::uint64_t()> count_masked) {
  const auto created =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  nlohmann::json entry{{"id", model.name}, {"object", "model"}, {"created", created}, {"owned_by", "troupe"}};
  if (context_tokens > 0) entry["max_model_len"] = context_tokens;
  // A model without some of its experts, or with another gate, is another model, and says so.
  const auto now = [entry, limit, explore_bias, count = std::move(count_masked)] {
    auto document = entry;
    document["troupe"] = {{"masked_experts", count()}};
    if (limit.groups != 0) document["troupe"]["route_groups"] = {{"groups", limit.groups}, {"kept", limit.kept}};
    if (explore_bias > 0) document["troupe"]["explore_bias"] = explore_bias;
    return document;
  };
  return {{"GET", "/v1/models", 0,
           [now](const http::request&, const std::shared_ptr<http::exchange>& exchange) {
             exchange->reply(json_answer({{"object", "list"}, {"data", nlohmann::json::array({now()})}}));
           }},
          {"GET", "/v1/models/{model}", 0,
           [now, &model](const http::request& asked, const std::shared_ptr<http::exchange>& exchange) {
             if (asked.parameter == model.name) return exchange->reply(json_answer(now()));
             exchange->reply(http::error_response(
                 404, "model_not_found",
                 fmt::format("there is no model '{}' here; GET /v1/models lists '{}'", asked.parameter, model.name),
                 "model"));
           }}};
}

}  // namespace

tl::expected<layer_job, field_error> parse_layer_body(const model_plan& plan, std::string_view layer,
                                                      std::shared_ptr<const std::string> body, time_point now) {
  auto known = plan.find(layer);
  if (!known) return refuse(known.error(), "layer");
  const auto bytes = std::as_bytes(std::span(*body));
  auto header = model::parse_safetensors(bytes, bytes.size());
  if (!header) return refuse(header.error(), "body");
  const auto found = std::ranges::find(header->tensors, "hidden", &model::tensor_info::name);
  if (found == header->tensors.end()) {
    return refuse(errc::invalid_request, "the body holds no tensor 'hidden'; send one of shape [rows, hidden size]",
                  "hidden");
  }
  tensor_view hidden{found->type, found->shape, bytes.subspan(found->offset, found->bytes)};
  if (auto fine = check_hidden(**known, hidden); !fine) return refuse(fine.error(), "hidden");
  const auto policy = read_degrade(header->metadata);
  if (!policy) return tl::unexpected(policy.error());
  const auto timeout = read_timeout(header->metadata);
  if (!timeout) return tl::unexpected(timeout.error());
  return layer_job{.layer = *known,
                   .hidden = std::move(hidden),
                   .keep = std::move(body),
                   .given = std::nullopt,
                   .policy = *policy,
                   .arrived = now,
                   .deadline = now + *timeout,
                   .done = {}};
}

std::string write_layer_body(const layer_answer& answer) {
  const std::vector<std::uint64_t> rows{answer.rows, answer.hidden};
  const std::vector<std::uint64_t> choice{answer.rows, answer.top_k};
  const auto& routed = answer.routed.empty() ? answer.output : answer.routed;
  const std::vector<model::named_tensor> tensors{
      {"output", {answer.type, rows, answer.output}},
      {"routed_output", {answer.type, rows, routed}},
      {"expert_ids", {dtype::i32, choice, std::as_bytes(std::span(answer.expert_ids))}},
      {"expert_weights", {dtype::f32, choice, std::as_bytes(std::span(answer.expert_weights))}},
      {"flags", {dtype::u8, {answer.rows}, std::as_bytes(std::span(answer.flags))}}};
  const auto bytes = model::write_safetensors(tensors, {{"epoch", std::to_string(answer.epoch.value)}});
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::vector<http::route> layer_routes(const model_plan& plan, const model::description& model, layer_gateway& gateway,
                                      std::uint32_t context_tokens, const model::group_limit& limit,
                                      double explore_bias, std::function<std::uint64_t()> count_masked) {
  auto routes = model_routes(model, context_tokens, limit, explore_bias, std::move(count_masked));
  routes.push_back({"POST", "/v1/layers/{layer}", limits::http_layer_body_bytes_max,
                    [&plan, &gateway](http::request request, const std::shared_ptr<http::exchange>& exchange) {
                      handle_layer(plan, gateway, std::move(request), exchange);
                    }});
  return routes;
}

}  // namespace troupe::router
