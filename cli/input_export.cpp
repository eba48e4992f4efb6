#include "cli/input_export.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "client/cpp/include/troupe/client.hpp"
#include "client/cpp/session.hpp"
#include "common/limits.hpp"
#include "model/file.hpp"
#include "model/safetensors.hpp"
#include "proto/client_router.pb.h"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds answer_timeout{30};

struct gathered {
  dtype type{dtype::f32};
  std::uint64_t hidden{};
  std::vector<std::byte> rows;     // [n, H]
  std::vector<std::byte> weights;  // [n] f32
  exported_inputs totals{};
};

result<client::answer> ask(const fs::path& data_dir, const cluster_context& context, const router_entry& router,
                           const expert_id& expert) {
  client::connect_options where;
  where.addresses = {router.client};
  where.data_dir = data_dir;
  where.key_file = data_dir / context.admin_key;
  auto target = client::resolve(where);
  if (!target) return fail(target.error());
  auto session = client::session::make(*std::move(target));
  if (!session) return fail(session.error());
  client::question question;
  auto& request = *question.envelope->mutable_inputs();
  request.set_layer(to_string(expert.layer));
  request.set_expert(expert.index);
  return (*session)->ask(question, answer_timeout);
}

result<void> add(const client::answer& answer, gathered& all) {
  const auto& reply = answer.envelope->inputs();
  all.totals.rows_seen += reply.rows_seen();
  all.totals.epoch = std::max(all.totals.epoch, reply.epoch());
  if (!reply.has_hidden()) return {};
  auto hidden = answer.message.tensor(reply.hidden(), "hidden");
  if (!hidden) return fail(hidden.error());
  auto weights = answer.message.tensor(reply.gate_weights(), "gate_weights");
  if (!weights) return fail(weights.error());
  const auto rows = hidden->shape.empty() ? 0 : hidden->shape[0];
  const bool fits = hidden->shape.size() == 2 && weights->type == dtype::f32 && weights->shape.size() == 1 &&
                    weights->shape[0] == rows &&
                    (all.rows.empty() || (hidden->type == all.type && hidden->shape[1] == all.hidden));
  if (!fits) return fail(errc::corrupt, "the routers' rows do not fit together; are all of them of one version?");
  all.type = hidden->type;
  all.hidden = hidden->shape[1];
  all.rows.insert(all.rows.end(), hidden->bytes.begin(), hidden->bytes.end());
  all.weights.insert(all.weights.end(), weights->bytes.begin(), weights->bytes.end());
  all.totals.rows += rows;
  return {};
}

}  // namespace

result<exported_inputs> export_inputs(const fs::path& data_dir, const cluster_context& context, const expert_id& expert,
                                      const fs::path& out) {
  gathered all;
  for (const auto& router : context.routers) {
    auto answer = ask(data_dir, context, router, expert);
    if (!answer) return fail(answer.error());
    if (auto added = add(*answer, all); !added) return fail(added.error());
  }
  const auto rows = all.totals.rows;
  if (rows == 0) {
    return fail(errc::not_found, fmt::format("no input of expert {0} is kept: routers keep those of cold experts, from "
                                             "when they are told; see troupe expert explain {0}",
                                             to_string(expert)));
  }
  const std::vector<float> sample_weight(rows, limits::cold_sample_weight);
  const std::vector<model::named_tensor> tensors{
      {"hidden_states", {all.type, {rows, all.hidden}, all.rows}},
      {"expert_weights", {dtype::f32, {rows}, all.weights}},
      {"sample_weight", {dtype::f32, {rows}, std::as_bytes(std::span(sample_weight))}}};
  const std::map<std::string, std::string> metadata{{"model", context.model.filename().string()},
                                                    {"layer", to_string(expert.layer)},
                                                    {"expert", std::to_string(expert.index)},
                                                    {"epoch", std::to_string(all.totals.epoch)},
                                                    {"rows_seen", std::to_string(all.totals.rows_seen)}};
  const auto document = model::write_safetensors(tensors, metadata);
  all.totals.bytes = document.size();
  const std::string_view bytes(reinterpret_cast<const char*>(document.data()), document.size());
  if (!model::replace_file(out, bytes)) {
    return fail(errc::unavailable, fmt::format("{} cannot be written; is there room, and may you?", out.string()));
  }
  return all.totals;
}

}  // namespace troupe::cli
