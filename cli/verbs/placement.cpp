// troupe placement show.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/placement_page.hpp"

namespace troupe::cli {
namespace {

result<exit_code> show(const session& s) {
  const auto experts = fetch_document(s, {query_kind::experts});
  if (!experts) return fail(experts.error());
  const auto nodes = fetch_document(s, {query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  const auto placement = placement_document(*experts, *nodes);
  const auto format = s.format();
  if (format == output_format::table || format == output_format::wide) {
    std::cout << placement_page(placement, format == output_format::wide) << std::flush;
  } else {
    s.print(placement, {.items = "items", .columns = {}, .name = "{layer}/{expert}"});
  }
  return exit_code::ok;
}

}  // namespace

void add_placement_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("placement", "Where everything is and should be.");
  verbs.verb(noun, "show", "Nodes with their slots, and what each of them holds of each layer.",
             "  troupe placement show\n  troupe placement show -o wide\n  troupe placement show -o json", &show);
  add_placement_plan_verb(verbs, noun);
}

}  // namespace troupe::cli
