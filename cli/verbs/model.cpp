// troupe model inspect, verify and plan: what is in a checkpoint folder. Works without a cluster.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/gpu_plan.hpp"
#include "cli/interrupt.hpp"
#include "cli/launch_plan.hpp"
#include "cli/progress.hpp"
#include "cli/terminal.hpp"
#include "common/layer_json.hpp"
#include "compute/gpu_memory.hpp"
#include "model/checkpoint.hpp"
#include "model/inspect.hpp"
#include "model/quantised.hpp"

namespace troupe::cli {
namespace {

namespace fs = std::filesystem;
using clock = std::chrono::steady_clock;

struct verify_request {
  fs::path folder;
  bool write{};
};

struct plan_request {
  fs::path folder;
  cluster_options options;
  std::uint64_t device_memory{};  // bytes of each GPU; 0: on this machine's memory
  bool names_nodes{};             // how many was asked for
};

std::string activation_name(model::activation act) {
  switch (act) {
    case model::activation::swiglu:
      return "swiglu";
    case model::activation::clamped_glu:
      return "clamped_glu";
    case model::activation::relu:
      return "relu";
    case model::activation::gelu_erf:
      return "gelu";
    case model::activation::gelu_tanh:
      return "gelu_tanh";
  }
  return "unknown";
}

std::string score_name(model::score_function score) {
  switch (score) {
    case model::score_function::softmax:
      return "softmax";
    case model::score_function::sigmoid:
      return "sigmoid";
    case model::score_function::softmax_of_top_k:
      return "softmax_of_top_k";
  }
  return "unknown";
}

std::uint64_t layer_bytes(const model::moe_layer& layer) {
  std::uint64_t bytes = 0;
  for (const auto& expert : layer.experts) bytes += expert.bytes();
  return bytes;
}

json describe_layer(const model::moe_layer& layer) {
  return {{"layer", layer_json<json>(layer.id)},
          {"experts", layer.experts.size()},
          {"top_k", layer.gate.top_k},
          {"gate", score_name(layer.gate.score)},
          {"width", layer.shape.width},
          {"activation", activation_name(layer.shape.act)},
          {"shared_width", layer.shared ? json(layer.shared->width) : json(nullptr)},
          {"bytes_per_expert", layer.experts.empty() ? 0 : layer.experts.front().bytes()},
          {"bytes", layer_bytes(layer)}};
}

json describe_model(const model::checkpoint& checkpoint) {
  const auto& model = checkpoint.model();
  json layers = json::array();
  for (const auto& layer : model.layers) layers.push_back(describe_layer(layer));
  json files = json::array();
  for (const auto& file : checkpoint.files()) files.push_back(file.filename().string());
  return {{"name", model.name},
          {"family", model.family},
          {"hidden", model.hidden},
          {"dtype", model::stored_name(model.stored)},
          {"experts", expert_count_of(model)},
          {"expert_bytes", model.bundle_bytes()},
          {"fingerprint", model.fingerprint},
          {"files", files},
          {"layers", layers}};
}

result<exit_code> inspect(const session& s, const fs::path& folder) {
  const auto checkpoint = model::checkpoint::open(folder);
  if (!checkpoint) return fail(checkpoint.error());
  const json document = describe_model(*checkpoint);
  if (s.prints_pages()) {
    std::cout << fmt::format("{}: {}, hidden {}, {} experts of {} in {} MoE layers, {} in all\n\n",
                             printable(checkpoint->model().name), checkpoint->model().family,
                             checkpoint->model().hidden, expert_count_of(checkpoint->model()),
                             model::stored_name(checkpoint->model().stored), checkpoint->model().layers.size(),
                             human_bytes(static_cast<double>(checkpoint->model().bundle_bytes())));
  }
  const bool name_only = s.format() == output_format::name;
  s.print(document, {.items = name_only ? "" : "layers",
                     .columns = {{"LAYER", "layer"},
                                 {"EXPERTS", "experts", cell::count},
                                 {"TOP-K", "top_k", cell::count},
                                 {"GATE", "gate"},
                                 {"WIDTH", "width", cell::count},
                                 {"ACTIVATION", "activation"},
                                 {"SHARED WIDTH", "shared_width", cell::count},
                                 {"PER EXPERT", "bytes_per_expert", cell::bytes},
                                 {"LAYER TOTAL", "bytes", cell::bytes}},
                     .name = "{name}"});
  return exit_code::ok;
}

json describe_bundles(const model::description& model, const model::verify_report& report) {
  json items = json::array();
  for (const auto& layer : model.layers) {
    for (const auto& layout : layer.experts) {
      const auto digest = report.digests.digests.find(layout.id);
      const bool read = digest != report.digests.digests.end();
      items.push_back({{"layer", layer_json<json>(layout.id.layer)},
                       {"expert", layout.id.index},
                       {"bytes", layout.bytes()},
                       {"digest", read ? json(model::to_hex(digest->second)) : json(nullptr)}});
    }
  }
  return items;
}

result<model::verify_report> verify_with_progress(const model::checkpoint& checkpoint) {
  install_interrupt_handler();
  progress shown{std::cerr, "verifying experts", stderr_is_terminal(), clock::now()};
  return model::verify(checkpoint, [&shown](const model::verify_progress& done) {
    shown.update(done.experts_done, done.experts_total, clock::now());
    return interrupt_count() == 0;
  });
}

result<exit_code> verify(const session& s, const verify_request& request) {
  const auto checkpoint = model::checkpoint::open(request.folder);
  if (!checkpoint) return fail(checkpoint.error());
  const auto report = verify_with_progress(*checkpoint);
  if (!report) return fail(report.error());
  json problems = json::array();
  for (const auto& problem : report->problems) problems.push_back(problem.message);
  s.print({{"name", checkpoint->model().name},
           {"fingerprint", checkpoint->model().fingerprint},
           {"experts", expert_count_of(checkpoint->model())},
           {"compared_with_manifest", report->had_manifest},
           {"problems", problems},
           {"items", describe_bundles(checkpoint->model(), *report)}},
          {.items = "items",
           .columns = {{"LAYER", "layer"},
                       {"EXPERT", "expert", cell::count},
                       {"BYTES", "bytes", cell::bytes},
                       {"DIGEST", "digest"}},
           .name = "{layer}/{expert}"});
  for (const auto& problem : report->problems) print_error(problem.message);
  if (!report->problems.empty()) return exit_code::failed;
  if (request.write && !s.options().dry_run) {
    if (auto written = model::write_manifest(request.folder, report->digests); !written) return fail(written.error());
  }
  return exit_code::ok;
}

view plan_view() {
  return {.items = "items",
          .columns = {{"NODE", "node"},
                      {"SLOTS NEEDED", "slots_needed", cell::count},
                      {"BYTES NEEDED", "bytes_needed", cell::bytes},
                      {"SLOTS PLANNED", "slots", cell::count},
                      {"BYTES PLANNED", "bytes_capacity", cell::bytes}},
          .name = "{node}"};
}

// `bytes`: of slots for all experts.
void note_widening(const model::description& model, std::uint64_t bytes) {
  if (!model::is_quantised(model.stored)) return;
  print_note(fmt::format("{} weights are widened when an expert is loaded: {} of experts take {} in slots",
                         model::stored_name(model.stored), human_bytes(static_cast<double>(model.bundle_bytes())),
                         human_bytes(static_cast<double>(bytes))));
}

// One GPU for each expert node.
result<exit_code> plan_on_gpus(const session& s, const plan_request& request, const model::description& model) {
  const auto& options = request.options;
  const auto asked = options.dtype == "bf16" ? dtype::bf16 : dtype::f32;
  const auto type = options.dtype == "auto" ? model::default_compute_type(model.stored) : asked;
  const auto need = compute::gpu_memory_of(model, type, request.device_memory);
  const gpu_demand demand{expert_count_of(model), options.replication, need.slot_bytes, need.scratch_bytes,
                          request.device_memory};
  const auto planned = plan_gpus(demand, request.names_nodes ? std::optional(options.expert_nodes) : std::nullopt);
  if (!planned) return fail(planned.error());
  json items = json::array();
  for (std::uint32_t i = 0; i < planned->gpus; ++i) {
    items.push_back({{"node", fmt::format("expert-{}", i)},
                     {"slots_needed", planned->slots_needed},
                     {"bytes_needed", planned->slots_needed * need.slot_bytes + need.scratch_bytes},
                     {"slots", planned->slots_fit},
                     {"bytes_capacity", planned->slots_fit * need.slot_bytes + need.scratch_bytes}});
  }
  s.print({{"name", model.name},
           {"expert_nodes", planned->gpus},
           {"replication", options.replication},
           {"dtype", to_string(type)},
           {"experts", demand.experts},
           {"stored_dtype", model::stored_name(model.stored)},
           {"stored_bytes", model.bundle_bytes()},
           {"slot_bytes", need.slot_bytes},
           {"scratch_bytes", need.scratch_bytes},
           {"device_memory", request.device_memory},
           {"gpus_needed", planned->gpus_needed},
           {"items", items}},
          plan_view());
  print_note(fmt::format(
      "a GPU of {} holds {} experts of {}, with {} to work on them; {} replicas of {} need {} of them",
      human_bytes(static_cast<double>(request.device_memory)), planned->slots_fit,
      human_bytes(static_cast<double>(need.slot_bytes)), human_bytes(static_cast<double>(need.scratch_bytes)),
      options.replication, demand.experts, planned->gpus_needed));
  note_widening(model, demand.experts * need.slot_bytes);
  return exit_code::ok;
}

result<exit_code> plan(const session& s, const plan_request& request) {
  const bool chooses_nodes = request.device_memory != 0 && !request.names_nodes;
  if (auto good = check_options(request.options); !good && !chooses_nodes) {
    print_error(good.error().message);
    return exit_code::usage;
  }
  const auto checkpoint = model::checkpoint::open(request.folder);
  if (!checkpoint) return fail(checkpoint.error());
  const auto& model = checkpoint->model();
  if (request.device_memory != 0) return plan_on_gpus(s, request, model);
  const auto& options = request.options;
  const std::uint32_t experts = expert_count_of(model);
  const std::uint64_t slot_bytes = slot_bytes_of(model, options.dtype);
  const std::uint64_t least =
      (std::uint64_t{experts} * options.replication + options.expert_nodes - 1) / options.expert_nodes;
  const auto slots = choose_slots(options, experts_by_layer(model), slot_bytes, this_machine());
  json items = json::array();
  for (std::uint32_t i = 0; i < options.expert_nodes; ++i) {
    items.push_back({{"node", fmt::format("expert-{}", i)},
                     {"slots_needed", least},
                     {"bytes_needed", least * slot_bytes},
                     {"slots", slots ? json(*slots) : json(nullptr)},
                     {"bytes_capacity", slots ? json(*slots * slot_bytes) : json(nullptr)}});
  }
  s.print({{"name", model.name},
           {"expert_nodes", options.expert_nodes},
           {"replication", options.replication},
           {"dtype", options.dtype},
           {"experts", experts},
           {"stored_dtype", model::stored_name(model.stored)},
           {"stored_bytes", model.bundle_bytes()},
           {"slot_bytes", slot_bytes},
           {"fits_here", slots.has_value()},
           {"items", items}},
          plan_view());
  note_widening(model, experts * slot_bytes);
  if (slots) return exit_code::ok;
  print_note("this machine could not hold it: " + slots.error().message);
  return exit_code::ok;
}

}  // namespace

void add_model_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("model", "What is in a checkpoint folder; needs no cluster.");
  auto folder = std::make_shared<fs::path>();
  auto& inspecting =
      verbs.verb(noun, "inspect", "Layers, experts, gates and bytes of a checkpoint.",
                 "  troupe model inspect ~/models/mixtral\n  troupe model inspect ~/models/mixtral -o json",
                 [folder](const session& s) { return inspect(s, *folder); });
  inspecting.add_option("folder", *folder, "checkpoint folder")->required()->type_name("DIR");
  auto checked = std::make_shared<verify_request>();
  auto& verifying = verbs.verb(noun, "verify", "Read every expert: digest, shape, and that all weights are finite.",
                               "  troupe model verify ~/models/mixtral\n"
                               "  troupe model verify ~/models/mixtral --write     keep the digests beside the weights",
                               [checked](const session& s) { return verify(s, *checked); });
  verifying.add_option("folder", checked->folder, "checkpoint folder")->required()->type_name("DIR");
  verifying.add_flag("--write", checked->write, "write expert-digests.json, which every later load is compared with");
  auto request = std::make_shared<plan_request>();
  auto nodes = std::make_shared<CLI::Option*>();
  auto& planning = verbs.verb(noun, "plan", "Slots and bytes that each expert node will take.",
                              "  troupe model plan ~/models/mixtral --expert-nodes 4 --replication 2\n"
                              "  troupe model plan ~/models/mixtral --device-memory 80GiB     how many GPUs it takes",
                              [request, nodes](const session& s) {
                                request->names_nodes = (*nodes)->count() > 0;
                                return plan(s, *request);
                              });
  planning.add_option("folder", request->folder, "checkpoint folder")->required()->type_name("DIR");
  *nodes = planning
               .add_option("--expert-nodes,--nodes", request->options.expert_nodes,
                           "expert nodes [3; with --device-memory as many as it takes]")
               ->check(CLI::Range(1, 1000));
  planning
      .add_option(
          "--device-memory", request->device_memory,
          "plan for expert nodes with a GPU each that has so much memory free, e.g. 80GiB [this machine's memory]")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE");
  planning.add_option("--replication", request->options.replication, "copies of each expert [1]")
      ->check(CLI::Range(1, 64));
  planning.add_option("--dtype", request->options.dtype, "auto, f32 or bf16 [auto]")
      ->check(CLI::IsMember({"auto", "f32", "bf16"}));
}

}  // namespace troupe::cli
