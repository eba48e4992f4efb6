// troupe node list, show, drain, undrain and remove.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/application.hpp"
#include "cli/documents.hpp"
#include "cli/interrupt.hpp"
#include "cli/progress.hpp"
#include "cli/suggest.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds look_interval{100};

struct node_request {
  std::string name;
  bool force{};
  std::chrono::milliseconds timeout{std::chrono::minutes{10}};
};

view node_view(bool one) {
  return {.items = one ? "" : "items",
          .columns = {{"NAME", "name"},
                      {"ROLE", "role"},
                      {"STATE", "state"},
                      {"PID", "pid", cell::count},
                      {"DEVICE", "device"},
                      {"SLOTS", "slots_total", cell::count},
                      {"USED", "slots_used", cell::count},
                      {"RESIDENT", "bytes_resident", cell::bytes},
                      {"CAPACITY", "bytes_capacity", cell::bytes},
                      {"ADDRESS", "address", cell::text, !one},
                      {"INCARNATION", "incarnation", cell::count, !one}},
          .name = "{name}",
          .vertical = one};
}

// One node out of the list; not_found with near misses (faults.md A7).
result<json> pick_node(json nodes, const std::string& name) {
  std::vector<std::string> names;
  for (auto& node : nodes.at("items")) {
    if (node.at("name") == name) return std::move(node);
    names.push_back(node.at("name").get<std::string>());
  }
  const std::string hint = did_you_mean(name, names);
  return fail(errc::not_found,
              fmt::format("no node {}{}", printable(name), hint.empty() ? "; see: troupe node list" : hint));
}

result<json> find_node(admin_client& coordinator, const std::string& name) {
  return coordinator.ask({query_kind::nodes}).and_then([&](json nodes) { return pick_node(std::move(nodes), name); });
}

result<exit_code> list(const session& s) {
  const auto nodes = fetch_document(s, {query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  s.print(*nodes, node_view(false));
  return exit_code::ok;
}

result<exit_code> show(const session& s, const node_request& request) {
  auto nodes = fetch_document(s, {query_kind::nodes});
  if (!nodes) return fail(nodes.error());
  const auto node = pick_node(std::move(*nodes), request.name);
  if (!node) return fail(node.error());
  s.print(*node, node_view(true));
  return exit_code::ok;
}

struct waiting {
  std::string what;                                  // "emptying expert-1"
  std::function<bool(const json& node)> is_done;     // looks at the node's entry
  std::function<std::uint64_t(const json&)> amount;  // what is left; 0: nothing to show
};

// Until the node is as it should be. The coordinator goes on by itself when the person stops waiting.
result<exit_code> wait_for_node(const session& s, admin_client& coordinator, const node_request& request,
                                const waiting& wanted) {
  install_interrupt_handler();
  const auto deadline = clock::now() + request.timeout;
  progress shown{std::cerr, wanted.what, stderr_is_terminal(), clock::now()};
  std::optional<std::uint64_t> total;
  while (true) {
    const auto node = find_node(coordinator, request.name);
    if (!node) return fail(node.error());
    const std::uint64_t left = wanted.amount(*node);
    if (!total) total = left;
    if (*total > 0) shown.update(*total - std::min(left, *total), *total, clock::now());
    if (wanted.is_done(*node)) {
      s.print(*node, node_view(true));
      return exit_code::ok;
    }
    if (clock::now() >= deadline) {
      return fail(errc::timeout,
                  fmt::format("{} is not done after {} s, {} slots are left; it goes on in the cluster: see "
                              "troupe node show {}",
                              wanted.what, request.timeout.count() / 1000, left, request.name));
    }
    if (wait_for_interrupt(look_interval)) {
      print_note(fmt::format("{} goes on in the cluster; see: troupe node show {}", wanted.what, request.name));
      return exit_code::interrupted;
    }
  }
}

// The answer of a request that is not waited for, or was only tried.
result<exit_code> print_answer(const session& s, const json& answer) {
  if (!answer.empty())
    s.print(answer, {.items = "", .columns = {{"RESULT", "message"}}, .name = "{node}", .vertical = true});
  return exit_code::ok;
}

result<exit_code> drain(const session& s, const node_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto node = find_node(*coordinator, request.name);
  if (!node) return fail(node.error());
  const std::string impact =
      fmt::format("Draining {} moves its {} experts to other nodes and takes {} slots out of use.", request.name,
                  node->at("slots_used").dump(), node->at("slots_total").dump());
  if (!s.options().dry_run && !confirm(impact, s.options().assume_yes))
    return fail(errc::cancelled, "not confirmed; nothing was done");
  const auto answer = coordinator->act(node_action::drain, request.name, s.options().dry_run);
  if (!answer) return fail(answer.error());
  if (s.options().dry_run || s.options().no_wait) return print_answer(s, *answer);
  return wait_for_node(s, *coordinator, request,
                       {.what = "emptying " + request.name,
                        .is_done = [](const json& n) { return n.at("state") == "draining" && n.at("slots_used") == 0; },
                        .amount = [](const json& n) { return n.at("slots_used").get<std::uint64_t>(); }});
}

result<exit_code> undrain(const session& s, const node_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  if (const auto node = find_node(*coordinator, request.name); !node) return fail(node.error());
  const auto answer = coordinator->act(node_action::undrain, request.name, s.options().dry_run);
  if (!answer) return fail(answer.error());
  if (s.options().dry_run || s.options().no_wait) return print_answer(s, *answer);
  return wait_for_node(s, *coordinator, request,
                       {.what = "undraining " + request.name,
                        .is_done = [](const json& n) { return n.at("state") == "serving"; },
                        .amount = [](const json&) { return std::uint64_t{0}; }});
}

result<exit_code> remove_node(const session& s, const node_request& request) {
  auto coordinator = s.coordinator();
  if (!coordinator) return fail(coordinator.error());
  const auto node = find_node(*coordinator, request.name);
  if (!node) return fail(node.error());
  const std::string impact =
      fmt::format("Removing {} ({}, {} experts) takes it out of the cluster for good.", request.name,
                  node->at("state").get<std::string>(), node->at("slots_used").dump());
  if (!s.options().dry_run && !confirm(impact, s.options().assume_yes))
    return fail(errc::cancelled, "not confirmed; nothing was done");
  const auto answer = coordinator->act(node_action::remove, request.name, s.options().dry_run, request.force);
  if (!answer) return fail(answer.error());
  return print_answer(s, *answer);
}

}  // namespace

void add_node_verbs(verb_registry& verbs) {
  auto request = std::make_shared<node_request>();
  auto& noun = verbs.noun("node", "Expert nodes and routers.");
  const auto with_name = [&](const std::string& name, const std::string& help, const std::string& examples,
                             result<exit_code> (*action)(const session&, const node_request&)) -> CLI::App& {
    auto& verb =
        verbs.verb(noun, name, help, examples, [request, action](const session& s) { return action(s, *request); });
    verb.add_option("node", request->name, "name of the node")->required()->type_name("NODE");
    return verb;
  };
  verbs.verb(noun, "list", "All nodes and what they hold.", "  troupe node list\n  troupe node list -o wide", &list);
  with_name("show", "One node.", "  troupe node show expert-1 -o json", &show);
  auto& draining = with_name("drain", "Move every expert off a node, without a failed request, and keep it empty.",
                             "  troupe node drain expert-1\n  troupe node drain expert-1 --yes --timeout 5m", &drain);
  add_duration(draining, "--timeout", request->timeout, "how long to wait [10m]");
  auto& undraining =
      with_name("undrain", "Give a drained node work again.", "  troupe node undrain expert-1", &undrain);
  add_duration(undraining, "--timeout", request->timeout, "how long to wait [10m]");
  auto& removing = with_name("remove", "Forget a node that is drained or lost.", "  troupe node remove expert-1 --yes",
                             &remove_node);
  removing.add_flag("--force", request->force, "even when experts have no other replica than its own");
}

}  // namespace troupe::cli
