// troupe placement show, history and rollback.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/operations.hpp"
#include "cli/placement_page.hpp"

namespace troupe::cli {
namespace {

// "0/1, 0/2, 1/3 and 12 more"
std::string named_experts(const json& group) {
  constexpr std::size_t shown_max = 6;
  const auto& names = group.at("experts");
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), shown_max); ++i) {
    text.append(text.empty() ? "" : ", ").append(names[i].get<std::string>());
  }
  const auto left = group.at("count").get<std::size_t>() - std::min(names.size(), shown_max);
  return left == 0 ? text : fmt::format("{} and {} more", text, left);
}

result<exit_code> show(const session& s) {
  const auto experts = fetch_document(s, {query_kind::experts});
  if (!experts) return fail(experts.error());
  const auto nodes = fetch_document(s, {query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  const auto placement = placement_document(*experts, *nodes);
  if (s.prints_pages()) {
    std::cout << placement_page(placement, s.format() == output_format::wide) << std::flush;
  } else {
    s.print(placement, {.items = "items", .columns = {}, .name = "{layer}/{expert}"});
  }
  return exit_code::ok;
}

// One row per change: what happened, to which experts, where and why.
json history_rows(const json& history) {
  json rows = json::array();
  for (const auto& epoch : history.at("items")) {
    const auto add = [&](const std::string& what, const json& node, const json& why) {
      rows.push_back(
          {{"epoch", epoch.at("epoch")}, {"time", epoch.at("time")}, {"node", node}, {"what", what}, {"why", why}});
    };
    for (const auto& node : epoch.at("nodes"))
      add(node.at("change").get<std::string>(), node.at("node"), node.at("why"));
    for (const auto& group : epoch.at("experts")) {
      add(fmt::format("{} {}", group.at("change").get<std::string>(), named_experts(group)), group.at("node"),
          group.at("why"));
    }
  }
  return rows;
}

result<exit_code> history(const session& s, std::size_t newest) {
  auto answer = fetch_document(s, {query_kind::history});
  if (!answer) return fail(answer.error());
  auto& items = answer->at("items");
  while (newest > 0 && items.size() > newest) items.erase(0);
  s.print(s.prints_pages() ? json{{"items", history_rows(*answer)}} : *answer,
          {.items = "items",
           .columns =
               {{"EPOCH", "epoch", cell::count}, {"TIME", "time"}, {"NODE", "node"}, {"WHAT", "what"}, {"WHY", "why"}},
           .name = "{epoch}"});
  return exit_code::ok;
}

struct rollback_request {
  std::uint64_t epoch{};
  std::chrono::milliseconds timeout{std::chrono::minutes{30}};
};

result<exit_code> roll_back(const session& s, const rollback_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto answer = coordinator->roll_back(request.epoch, s.options().dry_run);
  if (!answer) return fail(answer.error());
  return finish_operation(s, *coordinator, *answer, request.timeout);
}

}  // namespace

void add_placement_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("placement", "Where everything is and should be.");
  verbs.verb(noun, "show", "Nodes with their slots, and what each of them holds of each layer.",
             "  troupe placement show\n  troupe placement show -o wide\n  troupe placement show -o json", &show);
  add_placement_plan_verbs(verbs, noun);
  auto newest = std::make_shared<std::size_t>(0);
  auto& past = verbs.verb(noun, "history", "The last epochs: what changed, when and why.",
                          "  troupe placement history\n  troupe placement history --last 5 -o json",
                          [newest](const session& s) { return history(s, *newest); });
  past.add_option("--last", *newest, "only so many epochs [all that are kept]")->check(CLI::Range(1, 1'000'000));
  auto back = std::make_shared<rollback_request>();
  auto& rolling =
      verbs.verb(noun, "rollback", "Back to where the experts were in an earlier epoch, and in which versions.",
                 "  troupe placement rollback 12 --dry-run\n  troupe placement rollback 12",
                 [back](const session& s) { return roll_back(s, *back); });
  rolling.add_option("epoch", back->epoch, "see troupe placement history")
      ->required()
      ->type_name("EPOCH")
      ->check(CLI::NonNegativeNumber);
  add_duration(rolling, "--timeout", back->timeout, "how long to wait [30m]");
}

}  // namespace troupe::cli
