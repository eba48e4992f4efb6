#include "common/http/server.hpp"

#include <algorithm>
#include <future>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "common/http/connection.hpp"
#include "common/http/target.hpp"

namespace troupe::http {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

struct server::state {
  std::shared_ptr<server_core> core = std::make_shared<server_core>();
  tcp::acceptor acceptor{core->io};
  asio::steady_timer pause{core->io};
  asio::executor_work_guard<asio::io_context::executor_type> work{core->io.get_executor()};
  std::thread thread;
  std::string address;
  std::uint16_t port{};
  bool stopped{};

  result<void> listen(const std::string& wanted);
  void accept();
  void admit(tcp::socket socket);
  void begin_stop(std::chrono::steady_clock::time_point deadline);
};

namespace {

std::string random_prefix() {
  std::random_device random;
  return fmt::format("req-{:08x}", random());
}

error bind_error(const std::string& address, const error_code& failure) {
  if (failure == asio::error::address_in_use) {
    return {errc::conflict,
            fmt::format("address {} is in use already; choose another port with --http (0 picks a free one)", address)};
  }
  return {errc::invalid_request, fmt::format("cannot listen on {}: {}; check --http", address, failure.message())};
}

}  // namespace

result<void> server::state::listen(const std::string& wanted) {
  const auto parts = split_endpoint(wanted);
  if (!parts) {
    return troupe::fail(errc::invalid_request,
                        fmt::format("'{}' is no HTTP address; write host:port, e.g. 127.0.0.1:8080", wanted));
  }
  error_code failure;
  tcp::resolver resolver(core->io);
  const auto found = resolver.resolve(parts->host, parts->port, tcp::resolver::passive, failure);
  if (failure || found.empty()) {
    return troupe::fail(errc::invalid_request,
                        fmt::format("cannot resolve '{}': {}; check --http", parts->host, failure.message()));
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  acceptor.open(endpoint.protocol(), failure);
  if (!failure) acceptor.set_option(tcp::acceptor::reuse_address(true), failure);
  if (!failure) acceptor.bind(endpoint, failure);
  if (!failure) acceptor.listen(asio::socket_base::max_listen_connections, failure);
  if (failure) return troupe::fail(bind_error(wanted, failure));
  const auto bound = acceptor.local_endpoint();
  port = bound.port();
  const auto host = bound.address().to_string();
  address = bound.address().is_v6() ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
  return {};
}

void server::state::accept() {
  acceptor.async_accept([this](error_code failure, tcp::socket socket) {
    if (!acceptor.is_open()) return;
    if (!failure) {
      admit(std::move(socket));
      return accept();
    }
    // Out of descriptors, usually: try again when some may have been closed.
    pause.expires_after(std::chrono::milliseconds(100));
    pause.async_wait([this](error_code cancelled) {
      if (!cancelled && acceptor.is_open()) accept();
    });
  });
}

void server::state::admit(tcp::socket socket) {
  if (core->connections >= core->options.connections_max) {
    static constexpr std::string_view busy =
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(asio::buffer(busy), ignored);
    return;
  }
  auto made = std::make_shared<connection>(core, std::move(socket));
  std::erase_if(core->open, [](const auto& c) { return c.expired(); });
  core->open.push_back(made);
  made->start();
}

void server::state::begin_stop(std::chrono::steady_clock::time_point deadline) {
  error_code ignored;
  acceptor.close(ignored);
  pause.cancel();
  core->stopping = true;
  const bool out_of_time = std::chrono::steady_clock::now() >= deadline;
  bool busy = false;
  for (auto& weak : core->open) {
    auto alive = weak.lock();
    if (!alive) continue;
    out_of_time ? alive->close() : alive->close_when_idle();
    alive.reset();
    busy = busy || !weak.expired();
  }
  if (!busy || out_of_time) return core->io.stop();
  pause.expires_after(std::chrono::milliseconds(10));
  pause.async_wait([this, deadline](error_code) { begin_stop(deadline); });
}

server::server(std::unique_ptr<state> s) : state_(std::move(s)) {}

server::~server() { stop(std::chrono::milliseconds(0)); }

const std::string& server::address() const { return state_->address; }

std::uint16_t server::port() const { return state_->port; }

result<std::unique_ptr<server>> server::start(const server_options& options, std::vector<route> routes) {
  auto made = std::make_unique<state>();
  made->core->options = options;
  made->core->routes = std::move(routes);
  made->core->id_prefix = random_prefix();
  if (auto listening = made->listen(options.address); !listening) return troupe::fail(listening.error());
  made->accept();
  made->thread = std::thread([core = made->core] { core->io.run(); });
  return std::unique_ptr<server>(new server(std::move(made)));
}

void server::stop(std::chrono::milliseconds grace) {
  if (state_->stopped) return;
  state_->stopped = true;
  const auto deadline = std::chrono::steady_clock::now() + grace;
  asio::post(state_->core->io, [this, deadline] { state_->begin_stop(deadline); });
  state_->thread.join();
  // Operations that never ended hold connections, which hold the core that owns them: let them end as aborted.
  for (auto& weak : state_->core->open) {
    if (auto alive = weak.lock()) alive->close();
  }
  state_->core->io.restart();
  state_->core->io.poll();
}

}  // namespace troupe::http
