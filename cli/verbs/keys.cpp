// troupe keys gen, list and revoke.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/application.hpp"
#include "cli/credentials.hpp"
#include "cli/remote.hpp"
#include "cli/terminal.hpp"
#include "common/ids.hpp"

namespace troupe::cli {
namespace {

struct key_request {
  std::string name;
  std::string role{"client"};
};

view key_view(bool one) {
  return {.items = one ? "" : "items",
          .columns = {{"NAME", "name"}, {"ROLE", "role"}, {"PUBLIC KEY", "public_key"}, {"SECRET HERE", "has_secret"}},
          .name = "{name}",
          .vertical = one};
}

json describe(const credential& key) {
  return {{"name", key.name}, {"role", key.role}, {"public_key", key.public_key}, {"has_secret", key.has_secret}};
}

// Each machine of the cluster has a list of its own.
result<void> tell_machines(const std::filesystem::path& data_dir) {
  const auto context = load_context(data_dir);
  return context && !running_processes(*context).empty() ? send_keys(data_dir, *context) : result<void>{};
}

result<exit_code> gen(const session& s, const key_request& request) {
  if (!is_valid_node_name(request.name)) {
    print_error(
        fmt::format("'{}' is not a name; use a-z, 0-9, '.' and '-', at most 63 characters", printable(request.name)));
    return exit_code::usage;
  }
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  if (s.options().dry_run) {
    print_note(fmt::format("would make {}", (*data_dir / "keys" / (request.name + ".key")).string()));
    return exit_code::ok;
  }
  if (auto made = make_data_dir(*data_dir); !made) return fail(made.error());
  const auto key = make_credential(*data_dir, request.name, request.role);
  if (!key) return fail(key.error());
  if (auto told = tell_machines(*data_dir); !told) return fail(told.error());
  s.print(describe(*key), key_view(true));
  return exit_code::ok;
}

result<exit_code> revoke(const session& s, const std::string& name) {
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  const auto context = load_context(*data_dir);
  const auto running = context ? running_processes(*context) : std::vector<process_entry>{};
  if (std::ranges::find(running, name, &process_entry::name) != running.end()) {
    return fail(errc::conflict, fmt::format("{} runs with this key; stop it first: troupe down", name));
  }
  if (s.options().dry_run) {
    print_note(fmt::format("would take {} off {}", printable(name), (*data_dir / "keys/authorized").string()));
    return exit_code::ok;
  }
  const auto impact = fmt::format("Whoever has the key {} is let in no more, and the key is deleted.", printable(name));
  if (!confirm(impact, s.options().assume_yes)) return fail(errc::cancelled, "not confirmed; nothing was done");
  const auto revoked = revoke_credential(*data_dir, name);
  if (!revoked) return fail(revoked.error());
  if (auto told = tell_machines(*data_dir); !told) return fail(told.error());
  s.print(describe(*revoked), key_view(true));
  return exit_code::ok;
}

result<exit_code> list(const session& s) {
  const auto data_dir = s.data_dir();
  if (!data_dir) return fail(data_dir.error());
  const auto keys = list_credentials(*data_dir);
  if (!keys) return fail(keys.error());
  json items = json::array();
  for (const auto& key : *keys) items.push_back(describe(key));
  s.print({{"items", items}}, key_view(false));
  return exit_code::ok;
}

}  // namespace

void add_keys_verbs(verb_registry& verbs) {
  auto& noun = verbs.noun("keys", "Who may talk to the cluster over TCP.");
  auto request = std::make_shared<key_request>();
  auto& making = verbs.verb(noun, "gen", "Make a key pair and authorise it.", "  troupe keys gen laptop --role client",
                            [request](const session& s) { return gen(s, *request); });
  making.add_option("name", request->name, "name of the key's owner")->required()->type_name("NAME");
  making.add_option("--role", request->role, "client, admin, router, expert or coordinator [client]")
      ->check(CLI::IsMember({"client", "admin", "router", "expert", "coordinator"}));
  auto name = std::make_shared<std::string>();
  auto& revoking = verbs.verb(noun, "revoke",
                              "Let nobody in with a key any more. What is connected with it stays so until "
                              "it connects anew.",
                              "  troupe keys revoke laptop", [name](const session& s) { return revoke(s, *name); });
  revoking.add_option("name", *name, "name of the key's owner")->required()->type_name("NAME");
  verbs.verb(noun, "list", "All authorised keys.", "  troupe keys list", &list);
}

}  // namespace troupe::cli
