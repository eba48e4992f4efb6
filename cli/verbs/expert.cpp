// troupe expert list, show, explain, export-inputs, migrate, replicate, pin, unpin, prune, restore and add.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/input_export.hpp"
#include "cli/operations.hpp"
#include "cli/suggest.hpp"
#include "cli/terminal.hpp"
#include "common/ids.hpp"
#include "common/limits.hpp"

namespace troupe::cli {
namespace {

view expert_view(bool one) {
  view shown{.items = one ? "" : "items",
             .columns = {{"LAYER", "layer"},
                         {"EXPERT", "expert", cell::count},
                         {"STATE", "state"},
                         {"VERSION", "version", cell::count},
                         {"REPLICAS", "replicas"},
                         {"BYTES", "bytes", cell::bytes},
                         {"TOKENS", "tokens_total", cell::count},
                         {"SHARE", "share", cell::share},
                         {"COLD", "cold", cell::text, !one},
                         {"PINNED", "pinned", cell::text, !one},
                         {"OPERATION", "operation", cell::text, !one},
                         {"LAST USED", "last_used", cell::text, !one},
                         {"DIGEST", "digest", cell::text, !one}},
             .name = "{layer}/{expert}",
             .vertical = one};
  if (one) shown.columns.push_back({"CHOSEN WITH", "chosen_with"});
  return shown;
}

// "3/9 (42 %), 3/0 (7 %)": the experts that the same rows chose.
std::string companions_of(const json& expert) {
  std::string text;
  for (const auto& other : expert.at("together")) {
    text += fmt::format("{}{}/{} ({:.0f} %)", text.empty() ? "" : ", ", layer_name(expert.at("layer")),
                        other.at("expert").get<std::uint32_t>(), 100 * other.at("share").get<double>());
  }
  return text;
}

// faults.md A7: what there is instead.
error unknown_expert(const expert_id& wanted, const json& items) {
  std::vector<std::string> layers;
  std::size_t in_layer = 0;
  for (const auto& item : items) {
    const std::string layer = layer_name(item.at("layer"));
    if (layers.empty() || layers.back() != layer) layers.push_back(layer);
    in_layer += layer == to_string(wanted.layer) ? 1 : 0;
  }
  if (in_layer > 0) {
    return {errc::not_found, fmt::format("no expert {}; layer {} has experts 0-{}", to_string(wanted),
                                         to_string(wanted.layer), in_layer - 1)};
  }
  const std::string hint = did_you_mean(to_string(wanted.layer), layers);
  std::string all;
  for (const auto& layer : layers) all.append(all.empty() ? "" : ", ").append(layer);
  return {errc::not_found, fmt::format("no expert {}; the MoE layers are {}{}", to_string(wanted), all, hint)};
}

result<exit_code> list(const session& s, const std::string& layer) {
  if (!layer.empty() && !parse_layer(layer)) {
    print_error(fmt::format("'{}' is not a layer; write its number, or encoder.3, decoder.1", printable(layer)));
    return exit_code::usage;
  }
  const auto experts = fetch_document(s, {.kind = query_kind::experts, .layer = layer, .node = "", .events_after = 0});
  if (!experts) return fail(experts.error());
  s.print(*experts, expert_view(false));
  return exit_code::ok;
}

exit_code not_an_expert(const std::string& name) {
  print_error(fmt::format("'{}' is not an expert; write LAYER/EXPERT, e.g. 3/17 or encoder.1/4", printable(name)));
  return exit_code::usage;
}

result<exit_code> show(const session& s, const std::string& name) {
  const auto wanted = parse_expert(name);
  if (!wanted) return not_an_expert(name);
  const auto experts = fetch_document(s, {query_kind::experts});
  if (!experts) return fail(experts.error());
  for (const auto& item : experts->at("items")) {
    if (layer_name(item.at("layer")) != to_string(wanted->layer) || item.at("expert") != wanted->index) continue;
    query question{query_kind::explanation};
    question.expert = name;
    const auto explained = fetch_document(s, question);
    if (!explained) return fail(explained.error());
    json shown = item;
    for (const char* key : {"together", "together_missed"}) shown[key] = explained->at(key);
    if (s.prints_pages()) shown["chosen_with"] = companions_of(shown);
    s.print(shown, expert_view(true));
    return exit_code::ok;
  }
  return fail(unknown_expert(*wanted, experts->at("items")));
}

// Heads and sentences: what a page of JSON lists is for a person.
std::string explanation_page(const json& explanation) {
  std::string page = render(explanation, output_format::table,
                            {.items = "",
                             .columns = {{"EXPERT", "name"},
                                         {"STATE", "state"},
                                         {"SHARE", "share", cell::share},
                                         {"FAIR SHARE", "fair_share", cell::share},
                                         {"WANTED ON", "wanted"}},
                             .name = "",
                             .vertical = true});
  page +=
      '\n' +
      render(explanation, output_format::table,
             {.items = "replicas",
              .columns = {{"REPLICA ON", "node"}, {"SLOT", "slot", cell::count}, {"STATE", "state"}, {"WHY", "why"}},
              .name = ""});
  for (const auto& [title, key] : {std::pair{"Why it is so:", "reasons"}, std::pair{"Under way:", "under_way"},
                                   std::pair{"What would change it:", "would_change"}}) {
    if (explanation.at(key).empty()) continue;
    page += fmt::format("\n{}\n", title);
    for (const auto& line : explanation.at(key)) page += fmt::format("  {}\n", printable(line.get<std::string>()));
  }
  return page;
}

result<exit_code> explain(const session& s, const std::string& name) {
  if (!parse_expert(name)) return not_an_expert(name);
  query question{query_kind::explanation};
  question.expert = name;
  const auto answer = fetch_document(s, question);
  if (!answer) return fail(answer.error());
  if (s.prints_pages()) {
    std::cout << explanation_page(*answer) << std::flush;
  } else {
    s.print(*answer, {.items = "", .columns = {}, .name = "{name}"});
  }
  return exit_code::ok;
}

struct export_request {
  std::string name;
  std::string out;
};

result<exit_code> export_inputs_of(const session& s, const export_request& request) {
  const auto expert = parse_expert(request.name);
  if (!expert) return not_an_expert(request.name);
  const auto context = s.context();
  if (!context) return fail(context.error());
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  const auto done = export_inputs(*data_dir, *context, *expert, request.out);
  if (!done) return fail(done.error());
  s.print({{"expert", to_string(*expert)},
           {"file", request.out},
           {"rows", done->rows},
           {"rows_seen", done->rows_seen},
           {"epoch", done->epoch},
           {"bytes", done->bytes}},
          {.items = "",
           .columns = {{"EXPERT", "expert"},
                       {"FILE", "file"},
                       {"ROWS", "rows", cell::count},
                       {"DRAWN FROM", "rows_seen", cell::count},
                       {"EPOCH", "epoch", cell::count},
                       {"BYTES", "bytes", cell::bytes}},
           .name = "{file}",
           .vertical = true});
  return exit_code::ok;
}

struct change_request {
  std::string name;
  expert_command command;
  std::chrono::milliseconds timeout{std::chrono::minutes{10}};
};

result<exit_code> change(const session& s, change_request request) {
  const auto wanted = parse_expert(request.name);
  if (!wanted) return not_an_expert(request.name);
  request.command.expert = *wanted;
  request.command.dry_run = s.options().dry_run;
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto answer = coordinator->act(request.command);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout);
}

}  // namespace

void add_expert_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("expert", "The experts of the model, written LAYER/EXPERT.");
  auto layer = std::make_shared<std::string>();
  auto& listing = verbs.verb(noun, "list", "All experts, or those of one layer.",
                             "  troupe expert list\n  troupe expert list --layer 3 -o json",
                             [layer](const session& s) { return list(s, *layer); });
  listing.add_option("--layer", *layer, "only this MoE layer: 3, encoder.1")->type_name("LAYER");
  auto name = std::make_shared<std::string>();
  auto& showing = verbs.verb(noun, "show", "One expert.", "  troupe expert show 3/17",
                             [name](const session& s) { return show(s, *name); });
  showing.add_option("expert", *name, "LAYER/EXPERT")->required()->type_name("L/E");

  auto explained = std::make_shared<std::string>();
  auto& explaining = verbs.verb(noun, "explain", "Why an expert is where it is, and what would change that.",
                                "  troupe expert explain 3/17\n  troupe expert explain 3/17 -o json",
                                [explained](const session& s) { return explain(s, *explained); });
  explaining.add_option("expert", *explained, "LAYER/EXPERT")->required()->type_name("L/E");

  auto exported = std::make_shared<export_request>();
  auto& exporting = verbs.verb(noun, "export-inputs",
                               "Rows that went to a cold expert, to train it on: a sample that routers keep with "
                               "troupe up --cold-reservoir-rows.",
                               "  troupe expert export-inputs 3/17 --out 3-17.safetensors",
                               [exported](const session& s) { return export_inputs_of(s, *exported); });
  exporting.add_option("expert", exported->name, "LAYER/EXPERT")->required()->type_name("L/E");
  exporting.add_option("--out", exported->out, "the safetensors file; replaced if it is there")
      ->required()
      ->type_name("FILE");

  const auto changing = [&](const std::string& verb, const std::string& help, const std::string& examples,
                            expert_action action) -> std::pair<CLI::App&, std::shared_ptr<change_request>> {
    auto request = std::make_shared<change_request>();
    request->command.action = action;
    auto& made = verbs.verb(noun, verb, help, examples, [request](const session& s) { return change(s, *request); });
    made.add_option("expert", request->name, "LAYER/EXPERT")->required()->type_name("L/E");
    add_duration(made, "--timeout", request->timeout, "how long to wait [10m]");
    return {made, request};
  };
  auto [migrating, migration] =
      changing("migrate", "Move an expert to another node, without a failed request.",
               "  troupe expert migrate 3/17 --to expert-1\n  troupe expert migrate 3/17 --to expert-1 --dry-run",
               expert_action::migrate);
  migrating.add_option("--to", migration->command.to, "the node that gets it")->required()->type_name("NODE");
  migrating.add_option("--from", migration->command.from, "whose replica is given up [the fullest node's]")
      ->type_name("NODE");
  auto [replicating, replication] = changing("replicate", "How many replicas an expert has.",
                                             "  troupe expert replicate 3/17 --count 2", expert_action::replicate);
  replicating.add_option("--count", replication->command.count, "replicas, at most one per node")
      ->required()
      ->check(CLI::Range(std::size_t{1}, limits::replicas_per_expert_max));
  changing("pin", "Keep an expert where it is: nothing moves it but the loss or the drain of its node.",
           "  troupe expert pin 3/17", expert_action::pin);
  changing("unpin", "Let the planner move an expert again, also one that was migrated.", "  troupe expert unpin 3/17",
           expert_action::unpin);
  changing("prune", "Take an expert out: rows choose others, its slots become free. restore undoes it.",
           "  troupe expert prune 3/17 --dry-run\n  troupe expert prune 3/17", expert_action::prune);
  changing("restore", "Bring a pruned expert back.", "  troupe expert restore 3/17", expert_action::restore);
  changing("add", "Let an expert take part that is not added yet (troupe up --active-experts).",
           "  troupe expert add 3/17", expert_action::add);
}

}  // namespace troupe::cli
