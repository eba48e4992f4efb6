#include "cli/machines.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "cli/remote.hpp"
#include "cli/terminal.hpp"

namespace troupe::cli {
namespace {

// Ports of one machine are numbered by kind (launch_plan.cpp).
constexpr std::uint32_t processes_per_kind_max = 100;

std::vector<std::string> words_of(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(std::move(word));
  return words;
}

std::string short_name(const std::string& host) { return host.substr(0, host.find('.')); }

std::string this_host() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// Sockets are bound to numbers, not to names.
result<std::string> numeric(const std::string& host) {
  addrinfo wanted{};
  wanted.ai_family = AF_INET;
  wanted.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int failure = ::getaddrinfo(host.c_str(), nullptr, &wanted, &found); failure != 0) {
    return fail(errc::not_found, fmt::format("the address of {} is not known: {}; give its IP address", printable(host),
                                             ::gai_strerror(failure)));
  }
  std::array<char, INET_ADDRSTRLEN> text{};
  ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr, text.data(), text.size());
  ::freeaddrinfo(found);
  return std::string(text.data());
}

std::vector<std::string> shell_to(const cluster_file& file, const machine_entry& entry) {
  const bool is_here =
      entry.ssh == "none" || (entry.ssh.empty() && (entry.address == "localhost" || entry.address == "127.0.0.1" ||
                                                    short_name(entry.address) == short_name(this_host())));
  if (is_here) return {};
  auto words = words_of(file.ssh);
  // ssh must ask nothing, and notice when the other side is gone. What the file says of these comes first, and wins.
  if (std::filesystem::path(words.front()).filename() == "ssh")
    words.insert(words.end(), {"-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"});
  words.push_back(entry.ssh.empty() ? entry.address : entry.ssh);
  return words;
}

result<std::vector<machine_share>> listed(const cluster_file& file) {
  std::vector<machine_share> shares;
  for (const auto& entry : file.machines) {
    auto address = numeric(entry.address);
    if (!address) return fail(address.error());
    shares.push_back({{entry.name, *address, shell_to(file, entry)},
                      entry.zone.empty() ? entry.name : entry.zone,
                      entry.expert_nodes,
                      entry.routers,
                      entry.port == 0 ? file.port : entry.port});
  }
  return shares;
}

result<std::vector<machine_share>> of_slurm_job(std::uint16_t port) {
  if (std::getenv("SLURM_JOB_ID") == nullptr) {
    return fail(errc::invalid_request, "machines: slurm needs a job; run this inside salloc or sbatch");
  }
  const auto hosts = run_line("scontrol show hostnames");
  if (!hosts) return fail(hosts.error());
  std::vector<machine_share> shares;
  for (const auto& host : words_of(hosts->said)) {
    auto address = numeric(host);
    if (!address) return fail(address.error());
    std::vector<std::string> shell;
    if (short_name(host) != short_name(this_host()))
      shell = {"srun", "--overlap", "--nodes=1", "--ntasks=1", "--nodelist=" + host, "sh", "-c"};
    shares.push_back({{host, *address, std::move(shell)}, host, 0, 0, port});
  }
  if (shares.empty()) return fail(errc::not_found, "scontrol show hostnames names no machine of this Slurm job");
  return shares;
}

std::uint32_t sum(const std::vector<machine_share>& shares, std::uint32_t machine_share::*count) {
  std::uint32_t total = 0;
  for (const auto& share : shares) total += share.*count;
  return total;
}

void spread(std::vector<machine_share>& shares, std::uint32_t machine_share::*count, std::uint32_t total) {
  for (std::uint32_t i = 0; i < total; ++i) ++(shares[i % shares.size()].*count);
}

}  // namespace

result<std::vector<machine_share>> share_out(const cluster_file& file, cluster_options& options, bool has_count) {
  if (!file.is_slurm && file.machines.empty()) return std::vector<machine_share>{};
  auto shares = file.is_slurm ? of_slurm_job(file.port) : listed(file);
  if (!shares) return shares;
  if (sum(*shares, &machine_share::expert_nodes) == 0) {
    const auto machines = static_cast<std::uint32_t>(shares->size());
    spread(*shares, &machine_share::expert_nodes, has_count ? options.expert_nodes : machines);
  }
  if (sum(*shares, &machine_share::routers) == 0) spread(*shares, &machine_share::routers, options.routers);
  for (const auto& share : *shares) {
    if (share.expert_nodes <= processes_per_kind_max && share.routers <= processes_per_kind_max) continue;
    return fail(errc::invalid_request,
                fmt::format("{} gets {} expert nodes and {} routers; at most {} of a kind", share.where.name,
                            share.expert_nodes, share.routers, processes_per_kind_max));
  }
  options.expert_nodes = sum(*shares, &machine_share::expert_nodes);
  options.routers = sum(*shares, &machine_share::routers);
  options.transport = "tcp";  // with keys on every connection
  return shares;
}

}  // namespace troupe::cli
