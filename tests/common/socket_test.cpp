// Sockets: addresses that are taken or stale (faults.md N12), links that break, waking a poller.
#include "common/wire/socket.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include <csignal>
#include <cstring>
#include <fstream>
#include <thread>

#include "common/limits.hpp"
#include "common/wire/address.hpp"
#include "proto/router_expert.pb.h"
#include "wire_fixture.hpp"

namespace troupe::wire {
namespace {

socket make(const std::shared_ptr<context>& ctx, socket_kind kind) { return must(socket::open(ctx, kind)); }

TEST(socket_N12_port_in_use, is_a_conflict_that_names_port_and_flag) {
  auto ctx = must(context::make());
  auto first = make(ctx, socket_kind::router);
  const auto address = must(first.bind("tcp://127.0.0.1:0"));
  const auto port = address.substr(address.rfind(':') + 1);
  EXPECT_NE(port, "0");
  auto second = make(ctx, socket_kind::router);
  const auto refused = second.bind(address);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, errc::conflict);
  EXPECT_NE(refused.error().message.find("port " + port + " already in use"), std::string::npos);
  EXPECT_NE(refused.error().message.find("--listen"), std::string::npos);
}

TEST(socket, refuses_addresses_that_are_none) {
  auto ctx = must(context::make());
  auto one = make(ctx, socket_kind::router);
  for (const char* address : {"", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:70000", "tcp://203.0.113.1:7400",
                              "http://127.0.0.1:80", "ipc://"}) {
    EXPECT_EQ(one.bind(address).error().code, errc::invalid_request) << address;
  }
  EXPECT_EQ(one.bind("ipc:///tmp/" + std::string(200, 'x')).error().code, errc::invalid_request);
  EXPECT_FALSE(one.connect("nonsense"));
}

TEST(socket, replaces_an_ipc_file_that_a_dead_process_left) {
  temporary_folder folder;
  const auto path = (folder.path() / "stale").string();
  // As a killed process leaves it: bound, then closed without unlinking.
  const int raw = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  ASSERT_EQ(::bind(raw, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(raw, 1), 0);
  ::close(raw);
  ASSERT_TRUE(std::filesystem::exists(path));

  auto ctx = must(context::make());
  auto server = make(ctx, socket_kind::router);
  must(server.bind("ipc://" + path));
  struct stat info {};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
}

TEST(socket, leaves_an_ipc_file_of_a_living_process_alone) {
  temporary_folder folder;
  auto ctx = must(context::make());
  auto first = make(ctx, socket_kind::router);
  must(first.bind(folder.ipc("x")));
  auto second = make(ctx, socket_kind::router);
  EXPECT_EQ(second.bind(folder.ipc("x")).error().code, errc::conflict);
  auto client = make(ctx, socket_kind::dealer);
  must(client.connect(folder.ipc("x")));
  proto::RouterToExpert hello;
  hello.mutable_hello();
  send_when_connected(client, hello);
  EXPECT_TRUE(receive_within(first));
}

TEST(socket, takes_its_ipc_file_with_it_but_not_a_successors) {
  temporary_folder folder;
  const auto file = folder.path() / "x";
  auto ctx = must(context::make());
  {
    auto server = make(ctx, socket_kind::router);
    must(server.bind(folder.ipc("x")));
    auto moved = std::move(server);
    EXPECT_TRUE(std::filesystem::is_socket(file));
  }
  EXPECT_FALSE(std::filesystem::exists(file));
  auto successor = make(ctx, socket_kind::router);
  {
    auto server = make(ctx, socket_kind::router);
    must(server.bind(folder.ipc("x")));
    std::filesystem::remove(file);
    must(successor.bind(folder.ipc("x")));
  }
  EXPECT_TRUE(std::filesystem::is_socket(file));
}

TEST(socket, does_not_overwrite_a_file_that_is_no_socket) {
  temporary_folder folder;
  std::ofstream(folder.path() / "precious") << "text";
  auto ctx = must(context::make());
  auto server = make(ctx, socket_kind::router);
  EXPECT_EQ(server.bind(folder.ipc("precious")).error().code, errc::conflict);
  EXPECT_TRUE(std::filesystem::is_regular_file(folder.path() / "precious"));
}

std::optional<link_event> wait_for(link_monitor& monitor, link_event_kind wanted) {
  poller waiting;
  waiting.add(monitor.events());
  for (const deadline until; !until.passed(); waiting.wait(until.left())) {
    while (auto event = monitor.next()) {
      if (event->kind == wanted) return event;
    }
  }
  return std::nullopt;
}

// A process that listens at `address` until it is killed. Forked before this process has threads of libzmq.
pid_t fork_server(const std::string& address) {
  const pid_t child = ::fork();
  if (child != 0) return child;
  {
    auto ctx = context::make();
    auto server = socket::open(*ctx, socket_kind::router);
    static_cast<void>(server->bind(address));
    while (true) ::pause();
  }
}

TEST(link_monitor, tells_at_once_that_the_peers_process_was_killed) {
  temporary_folder folder;
  const auto address = folder.ipc("peer");
  const pid_t child = fork_server(address);
  auto ctx = must(context::make());
  auto client = make(ctx, socket_kind::dealer);
  auto monitor = must(link_monitor::watch(client));
  must(client.connect(address));
  EXPECT_TRUE(wait_for(monitor, link_event_kind::ready));
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  const auto before = std::chrono::steady_clock::now();
  const auto event = wait_for(monitor, link_event_kind::disconnected);
  ASSERT_TRUE(event);
  EXPECT_EQ(event->endpoint, address);
  EXPECT_LT(std::chrono::steady_clock::now() - before, limits::link_heartbeat_timeout) << "must not need heartbeats";
}

TEST(link_monitor, tells_that_nobody_listens) {
  temporary_folder folder;
  auto ctx = must(context::make());
  auto client = make(ctx, socket_kind::dealer);
  auto monitor = must(link_monitor::watch(client));
  must(client.connect(folder.ipc("nobody")));
  EXPECT_TRUE(wait_for(monitor, link_event_kind::connect_failed));
}

TEST(link_monitor_N3, a_peer_that_accepts_but_never_speaks_fails_the_handshake) {
  const int raw = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(raw, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(raw, 4), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(::getsockname(raw, reinterpret_cast<sockaddr*>(&address), &size), 0);
  auto ctx = must(context::make());
  auto client = make(ctx, socket_kind::dealer);
  auto monitor = must(link_monitor::watch(client));
  must(client.connect("tcp://127.0.0.1:" + std::to_string(ntohs(address.sin_port))));
  EXPECT_TRUE(wait_for(monitor, link_event_kind::connected));
  EXPECT_TRUE(wait_for(monitor, link_event_kind::disconnected));
  ::close(raw);
}

TEST(wake_signal, interrupts_a_wait_and_counts_once) {
  auto signal = must(wake_signal::make());
  poller waiting;
  const auto number = waiting.add(signal);
  EXPECT_EQ(waiting.wait(0ms), 0U);
  std::thread other([&] {
    signal.wake();
    signal.wake();
  });
  EXPECT_EQ(waiting.wait(patience), 1U);
  EXPECT_TRUE(waiting.readable(number));
  other.join();
  signal.clear();
  EXPECT_EQ(waiting.wait(0ms), 0U);
  EXPECT_FALSE(waiting.readable(number));
}

// libzmq's descriptor says "look at me" once; whoever uses the socket meanwhile has looked, and it says no more.
TEST(poller, sees_a_message_whose_signal_a_send_has_taken) {
  temporary_folder folder;
  auto ctx = must(context::make());
  auto server = make(ctx, socket_kind::router);
  must(server.bind(folder.ipc("x")));
  auto client = make(ctx, socket_kind::dealer);
  must(client.connect(folder.ipc("x")));
  proto::RouterToExpert hello;
  hello.mutable_hello();
  send_when_connected(client, hello);
  const auto greeting = receive_within(server);
  ASSERT_TRUE(greeting);
  poller waiting;
  const auto number = waiting.add(client);
  EXPECT_EQ(waiting.wait(0ms), 0U);

  int descriptor = -1;
  std::size_t size = sizeof descriptor;
  ASSERT_EQ(zmq_getsockopt(client.handle(), ZMQ_FD, &descriptor, &size), 0);
  proto::ExpertToRouter answer;
  answer.mutable_welcome();
  must(outgoing_message().send(server, answer, greeting->routing_id));
  pollfd arrival{descriptor, POLLIN, 0};
  ASSERT_EQ(::poll(&arrival, 1, 10'000), 1);
  // libzmq looks at its commands at most once a millisecond while it sends.
  ASSERT_TRUE(eventually([&] {
    must(outgoing_message().send(client, hello));
    return ::poll(&arrival, 1, 0) == 0;
  }));
  EXPECT_EQ(waiting.wait(patience), 1U);
  EXPECT_TRUE(waiting.readable(number));
  ASSERT_TRUE(receive(client));
  EXPECT_FALSE(receive(client));
  EXPECT_EQ(waiting.wait(0ms), 0U);
  EXPECT_FALSE(waiting.readable(number));
}

TEST(address, has_siblings_by_port_or_by_name) {
  EXPECT_EQ(*sibling_address("tcp://10.0.0.1:7400", sibling::heartbeat), "tcp://10.0.0.1:7401");
  EXPECT_EQ(*sibling_address("tcp://[::1]:7400", sibling::admin), "tcp://[::1]:7402");
  EXPECT_EQ(*sibling_address("ipc:///run/coordinator.control.ipc", sibling::admin), "ipc:///run/coordinator.admin.ipc");
  EXPECT_EQ(*sibling_address("ipc:///run/expert-0.data.ipc", sibling::peer), "ipc:///run/expert-0.peer.ipc");
  for (const char* bad : {"", "tcp://x", "tcp://x:0", "tcp://x:65535", "tcp://x:7x", "tcp://:7400", "ipc:///x.ipc"}) {
    EXPECT_FALSE(sibling_address(bad, sibling::heartbeat)) << bad;
  }
  EXPECT_TRUE(is_remote("tcp://10.0.0.1:1"));
  EXPECT_FALSE(is_remote("tcp://127.0.0.1:1"));
  EXPECT_FALSE(is_remote("ipc:///x"));
}

}  // namespace
}  // namespace troupe::wire
