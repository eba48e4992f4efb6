// troupe doctor.
#include "cli/doctor.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"

namespace troupe::cli {
namespace {

std::string word_of(verdict outcome) {
  return outcome == verdict::pass ? "PASS" : outcome == verdict::warn ? "WARN" : "FAIL";
}

result<exit_code> doctor(const session& s) {
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  const auto findings = examine_machine(*data_dir);
  json items = json::array();
  for (const auto& found : findings) {
    items.push_back({{"check", found.check},
                     {"result", word_of(found.outcome)},
                     {"detail", found.detail},
                     {"fix", found.fix.empty() ? json(nullptr) : json(found.fix)}});
  }
  s.print({{"items", items}},
          {.items = "items",
           .columns = {{"RESULT", "result"}, {"CHECK", "check"}, {"FOUND", "detail"}, {"FIX", "fix"}},
           .name = "{check}"});
  const bool bad =
      std::any_of(findings.begin(), findings.end(), [](const auto& f) { return f.outcome == verdict::fail; });
  return bad ? exit_code::failed : exit_code::ok;
}

}  // namespace

void add_doctor_verb(verb_registry& verbs) {
  verbs.verb("doctor", "What is wrong with this machine, and how to fix it.",
             "  troupe doctor\n  troupe doctor -o json", &doctor);
}

}  // namespace troupe::cli
