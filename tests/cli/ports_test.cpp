#include "cli/ports.hpp"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace troupe::cli {
namespace {

TEST(ports, parses_addresses) {
  EXPECT_EQ(parse_host_port("127.0.0.1:8080")->text(), "127.0.0.1:8080");
  EXPECT_EQ(parse_host_port(":0")->text(), "127.0.0.1:0");
  EXPECT_EQ(parse_host_port("[::1]:80")->host, "::1");
  for (const char* wrong : {"", "8080", "host:", "host:http", "host:65536", "host:-1", "::1:80", "host:80x"}) {
    EXPECT_FALSE(parse_host_port(wrong)) << wrong;
  }
}

TEST(ports, free_ports_are_neighbours_and_not_taken) {
  const auto first = find_free_ports("127.0.0.1", 3, {});
  ASSERT_TRUE(first) << first.error().message;
  for (std::uint16_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(check_port_is_free({"127.0.0.1", static_cast<std::uint16_t>(*first + i)}));
  }
}

// faults.md N12: who has the port, and what to do.
TEST(ports, a_port_in_use_is_named_with_its_owner) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::uint16_t port = ntohs(address.sin_port);
  const auto free = check_port_is_free({"127.0.0.1", port});
  ::close(listener);
  ASSERT_FALSE(free);
  EXPECT_EQ(free.error().code, errc::conflict);
  EXPECT_THAT(free.error().message, testing::HasSubstr(std::to_string(port)));
  EXPECT_THAT(free.error().message, testing::HasSubstr("pid " + std::to_string(::getpid())));
}

TEST(ports, an_address_of_another_machine_is_refused) {
  const auto free = check_port_is_free({"192.0.2.1", 8080});
  ASSERT_FALSE(free);
  EXPECT_EQ(free.error().code, errc::invalid_request);
}

}  // namespace
}  // namespace troupe::cli
