// A deliberately dumb HTTP client for tests: sends exactly the bytes it is given.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::testing {

struct http_answer {
  int status{};  // 0: the connection ended before a complete header
  std::string header;
  std::string body;

  // The value of a header line, or "".
  [[nodiscard]] std::string field(std::string_view name) const {
    const auto at = header.find("\r\n" + std::string(name) + ": ");
    if (at == std::string::npos) return {};
    const auto begin = at + name.size() + 4;
    return header.substr(begin, header.find("\r\n", begin) - begin);
  }
};

class http_client {
 public:
  explicit http_client(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    timeval patience{30, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    connected_ = ::connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
  }
  ~http_client() { close(); }
  http_client(const http_client&) = delete;
  http_client& operator=(const http_client&) = delete;

  [[nodiscard]] bool connected() const { return connected_; }

  void close() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
    return true;
  }

  // True when the server has closed the connection and left nothing to read.
  [[nodiscard]] bool at_end() { return unread_.empty() && !fill(); }

  http_answer receive(bool has_body = true) {
    http_answer answer;
    std::size_t end = 0;
    while ((end = unread_.find("\r\n\r\n")) == std::string::npos) {
      if (!fill()) return answer;
    }
    answer.header = unread_.substr(0, end + 2);
    unread_.erase(0, end + 4);
    answer.status = std::atoi(answer.header.c_str() + sizeof("HTTP/1.1"));
    const auto length = answer.field("Content-Length");
    const auto wanted = has_body && !length.empty() ? std::strtoull(length.c_str(), nullptr, 10) : 0;
    while (unread_.size() < wanted && fill()) {
    }
    answer.body = unread_.substr(0, wanted);
    unread_.erase(0, wanted);
    return answer;
  }

  // One chunk of a chunked body; empty: the last one, or the connection ended.
  std::string receive_chunk() {
    std::size_t end = 0;
    while ((end = unread_.find("\r\n")) == std::string::npos) {
      if (!fill()) return {};
    }
    const auto bytes = std::strtoull(unread_.c_str(), nullptr, 16);
    while (unread_.size() < end + 2 + bytes + 2 && fill()) {
    }
    auto chunk = unread_.substr(end + 2, bytes);
    unread_.erase(0, end + 2 + bytes + 2);
    return chunk;
  }

  // A whole chunked body.
  std::string receive_chunks() {
    std::string all;
    for (auto chunk = receive_chunk(); !chunk.empty(); chunk = receive_chunk()) all += chunk;
    return all;
  }

  // Everything up to the end of the connection, as it comes.
  std::string receive_rest() {
    while (fill()) {
    }
    return std::exchange(unread_, std::string());
  }

  http_answer call(std::string_view method, std::string_view path, std::string_view body = {},
                   std::string_view more_headers = {}) {
    std::string text = std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: test\r\n";
    text += more_headers;
    if (method != "GET" && method != "HEAD") text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
    text += "\r\n";
    text += body;
    if (!send(text)) return {};
    return receive(method != "HEAD");
  }

 private:
  bool fill() {
    char bytes[65536];
    const auto got = ::recv(socket_, bytes, sizeof bytes, 0);
    if (got <= 0) return false;
    unread_.append(bytes, static_cast<std::size_t>(got));
    return true;
  }

  int socket_;
  bool connected_{};
  std::string unread_;
};

}  // namespace troupe::testing
