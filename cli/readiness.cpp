#include "cli/readiness.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "cli/admin_client.hpp"
#include "cli/http_client.hpp"

namespace troupe::cli {
namespace {

constexpr std::chrono::milliseconds answer_timeout{1000};

// Why the coordinator thinks that it does not serve yet, in its own words.
std::string reasons_of(const json& status) {
  std::string text;
  for (const auto& reason : status.at("reasons")) text.append("; ").append(reason.get<std::string>());
  return text;
}

// Names of the context's expert nodes and routers that do not take part yet.
std::vector<std::string> absent_nodes(const cluster_context& context, const json& nodes) {
  std::vector<std::string> absent;
  for (const auto& process : context.processes) {
    if (process.role == "coordinator") continue;
    const auto& items = nodes.at("items");
    const bool present = std::any_of(items.begin(), items.end(), [&](const json& node) {
      // The pid tells the process that was just started from the one before it, which is not given up at once.
      // On another machine the pid here is that of its keeper.
      const bool is_it = !process.machine.empty() || node.at("pid") == process.identity.pid;
      return node.at("name") == process.name && is_it &&
             (node.at("state") == "serving" || node.at("state") == "draining");
    });
    if (!present) absent.push_back(process.name);
  }
  return absent;
}

// It is on another machine, and its HTTP server is open to that one only.
bool serves_its_machine_alone(const cluster_context& context, const router_entry& router) {
  const auto process = std::ranges::find(context.processes, router.name, &process_entry::name);
  const bool is_remote = process != context.processes.end() && !process->machine.empty();
  return is_remote && (router.http.starts_with("http://127.") || router.http.starts_with("http://localhost"));
}

}  // namespace

readiness_probe::readiness_probe(const std::filesystem::path& data_dir, const cluster_context& context,
                                 std::uint64_t complete, bool rejoining)
    : data_dir_{data_dir}, context_{context}, complete_{complete}, rejoining_{rejoining} {}

readiness_probe::~readiness_probe() = default;

readiness readiness_probe::look() {
  readiness found = look_at_coordinator();
  return found.ready ? look_at_routers(std::move(found)) : found;
}

readiness readiness_probe::look_at_coordinator() {
  if (!admin_) {
    auto connected = admin_client::connect(data_dir_, context_, answer_timeout);
    if (!connected) return {false, 0, "the coordinator does not answer yet: " + connected.error().message};
    admin_ = std::make_unique<admin_client>(std::move(*connected));
  }
  const auto status = admin_->ask({query_kind::status});
  const auto nodes = status ? admin_->ask({query_kind::nodes}) : status;
  if (!status || !nodes) {
    admin_.reset();
    return {false, 0, "the coordinator does not answer: " + (status ? nodes.error() : status.error()).message};
  }
  try {
    const auto loaded = status->at("replicas").get<std::uint64_t>();
    const auto absent = absent_nodes(context_, *nodes);
    if (!absent.empty()) return {false, loaded, fmt::format("{} did not join yet", fmt::join(absent, ", "))};
    const bool all_reachable = status->at("unroutable_experts") == 0;
    // Pruned experts, and those that are not added yet, are not waited for.
    const auto wanted = std::min(complete_, status->at("replicas_wanted").get<std::uint64_t>());
    const bool complete = status->at("state") == "serving" && loaded >= wanted;
    if (all_reachable && (complete || rejoining_)) return {true, loaded, ""};
    return {false, loaded, fmt::format("{} of {} expert replicas can be used{}", loaded, wanted, reasons_of(*status))};
  } catch (const json::exception& problem) {
    return {false, 0, fmt::format("the coordinator's answer cannot be used: {}", problem.what())};
  }
}

readiness readiness_probe::look_at_routers(readiness found) const {
  for (const auto& router : context_.routers) {
    if (serves_its_machine_alone(context_, router)) continue;  // the coordinator says that it works by the map
    const auto answer = http_get(router.http + "/readyz?verbose", answer_timeout);
    if (!answer || answer->status != 200) {
      found.ready = false;
      found.missing = fmt::format("{} is not ready yet: {}", router.name,
                                  answer ? answer->body.substr(0, 400) : answer.error().message);
      return found;
    }
  }
  return found;
}

}  // namespace troupe::cli
