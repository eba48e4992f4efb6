// The ZAP handler of keys.hpp (ZeroMQ RFC 27): libzmq asks over an inproc socket, for every connection to a CURVE
// server socket, whether the client's key may in.
#include <fmt/format.h>
#include <pthread.h>
#include <sys/stat.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <thread>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/frame.hpp"
#include "common/wire/keys.hpp"

namespace troupe::wire {
namespace {

constexpr const char* zap_endpoint = "inproc://zeromq.zap.01";
constexpr std::string_view zap_version = "1.0";
constexpr std::string_view self_test_domain = "self-test";
constexpr std::size_t request_frames = 7;  // version, id, domain, address, identity, mechanism, credentials
constexpr std::size_t binary_key_length = 32;

struct zap_request {
  std::string id;
  std::string domain;
  std::string address;
  std::string mechanism;
  std::string public_key;  // Z85; empty when the credentials are no CURVE key
};

struct zap_answer {
  bool allowed{};
  std::string user_id;
  std::string reason;
};

std::string text_of(const frame& part) {
  const auto bytes = part.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What tells one version of a file from another without reading it.
struct file_stamp {
  dev_t device{};
  ino_t inode{};
  off_t bytes{};
  std::int64_t seconds{};
  std::int64_t nanoseconds{};
  friend bool operator==(const file_stamp&, const file_stamp&) = default;
};

std::optional<file_stamp> stamp_of(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) != 0) return std::nullopt;
  return file_stamp{info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec};
}

bool domain_allows(std::string_view domain, peer_role role) {
  while (!domain.empty()) {
    const auto comma = std::min(domain.find(','), domain.size());
    if (domain.substr(0, comma) == to_string(role)) return true;
    domain.remove_prefix(std::min(comma + 1, domain.size()));
  }
  return false;
}

// Belongs to the handler's thread.
class authorized_list {
 public:
  explicit authorized_list(std::filesystem::path file) : file_(std::move(file)) {}

  result<void> load() {
    const auto stamp = stamp_of(file_);
    auto keys = load_authorized(file_);
    if (!keys) return fail(std::move(keys.error()));
    by_key_.clear();
    for (auto& key : *keys) by_key_.insert_or_assign(key.public_key, key);
    stamp_ = stamp;
    return {};
  }

  const authorized_key* find(const std::string& public_key) {
    // A file that cannot be read just now leaves the old list in force; its stamp differs, so it is tried again.
    if (stamp_of(file_) != stamp_) static_cast<void>(load());
    const auto found = by_key_.find(public_key);
    return found == by_key_.end() ? nullptr : &found->second;
  }

 private:
  std::filesystem::path file_;
  std::optional<file_stamp> stamp_;
  std::map<std::string, authorized_key> by_key_;
};

zap_answer decide(const zap_request& request, authorized_list& list) {
  if (request.mechanism != "CURVE" || request.public_key.empty()) return {false, {}, "no CURVE key"};
  const auto* known = list.find(request.public_key);
  if (known == nullptr) return {false, {}, "unknown key"};
  if (!domain_allows(request.domain, known->role)) {
    return {false, {}, fmt::format("role {} may not connect here", to_string(known->role))};
  }
  return {true, user_id_of(*known), {}};
}

// nullopt when the request cannot be answered at all.
std::optional<zap_request> read_request(void* handle) {
  std::vector<frame> parts;
  while (true) {
    frame part;
    if (zmq_msg_recv(part.handle(), handle, 0) < 0) return std::nullopt;
    const bool more = zmq_msg_more(part.handle()) != 0;
    if (parts.size() < request_frames) parts.push_back(std::move(part));
    if (!more) break;
  }
  if (parts.size() < request_frames - 1 || text_of(parts[0]) != zap_version) return std::nullopt;
  zap_request request{text_of(parts[1]), text_of(parts[2]), text_of(parts[3]), text_of(parts[5]), {}};
  if (parts.size() == request_frames && parts[6].size() == binary_key_length) {
    std::array<char, 41> z85{};
    const auto* key = reinterpret_cast<const std::uint8_t*>(std::as_const(parts[6]).bytes().data());
    if (zmq_z85_encode(z85.data(), key, binary_key_length) != nullptr) request.public_key = z85.data();
  }
  return request;
}

bool send_answer(void* handle, const zap_request& request, const zap_answer& answer) {
  const std::array<std::string, 6> parts{
      std::string(zap_version),          request.id,     answer.allowed ? "200" : "400",
      answer.allowed ? "OK" : "refused", answer.user_id, {}};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const int more = i + 1 < parts.size() ? ZMQ_SNDMORE : 0;
    if (zmq_send(handle, parts[i].data(), parts[i].size(), more) < 0) return false;
  }
  return true;
}

[[noreturn]] void die(const char* why) {
  std::fprintf(stderr, "error: the key check (ZAP) failed: %s; exiting, since without it any key would be let in\n",
               why);
  std::_Exit(EXIT_FAILURE);
}

}  // namespace

struct zap_handler::state {
  std::shared_ptr<context> ctx;
  socket requests;
  wake_signal wake;
  authorized_list list;
  std::function<void(const zap_refusal&)> on_refusal;
  std::atomic<bool> stopping{false};
  std::atomic<std::uint64_t> refusals{0};
  std::thread thread;

  state(std::shared_ptr<context> c, socket r, wake_signal w, authorized_list l,
        std::function<void(const zap_refusal&)> refused)
      : ctx(std::move(c)),
        requests(std::move(r)),
        wake(std::move(w)),
        list(std::move(l)),
        on_refusal(std::move(refused)) {}

  void serve_one() {
    const auto request = read_request(requests.handle());
    if (!request) die("libzmq sent a request that is no ZAP 1.0");
    const auto answer = decide(*request, list);
    if (!send_answer(requests.handle(), *request, answer)) die(zmq_strerror(zmq_errno()));
    if (answer.allowed || request->domain == self_test_domain) return;
    refusals.fetch_add(1, std::memory_order_relaxed);
    if (on_refusal) on_refusal({request->address, request->public_key, answer.reason});
  }

  void run() noexcept {
    try {
      poller waiting;
      const auto number = waiting.add(requests);
      waiting.add(wake);
      while (!stopping.load()) {
        waiting.wait(limits::idle_poll);
        if (waiting.readable(number)) serve_one();
      }
    } catch (const std::exception& failure) {
      die(failure.what());
    }
  }
};

zap_handler::zap_handler(std::unique_ptr<state> s) : state_(std::move(s)) {}

result<std::unique_ptr<zap_handler>> zap_handler::start(std::shared_ptr<context> ctx,
                                                        std::filesystem::path authorized_file,
                                                        std::function<void(const zap_refusal&)> on_refusal) {
  authorized_list list(std::move(authorized_file));
  if (auto loaded = list.load(); !loaded) return fail(std::move(loaded.error()));
  auto requests = socket::open(ctx, socket_kind::rep);
  if (!requests) return fail(std::move(requests.error()));
  if (auto bound = requests->bind(zap_endpoint); !bound) return fail(std::move(bound.error()));
  auto wake = wake_signal::make();
  if (!wake) return fail(std::move(wake.error()));
  auto made = std::make_unique<state>(std::move(ctx), std::move(*requests), std::move(*wake), std::move(list),
                                      std::move(on_refusal));
  made->thread = std::thread([s = made.get()] {
    ::pthread_setname_np(::pthread_self(), "zap");
    s->run();
  });
  return std::unique_ptr<zap_handler>(new zap_handler(std::move(made)));
}

zap_handler::~zap_handler() {
  state_->stopping.store(true);
  state_->wake.wake();
  state_->thread.join();
}

std::uint64_t zap_handler::refusals() const { return state_->refusals.load(std::memory_order_relaxed); }

result<void> zap_handler::self_test() {
  auto server_keys = make_key_pair();
  auto client_keys = make_key_pair();
  if (!server_keys || !client_keys) return fail(errc::internal, "the key check's self-test cannot make keys");
  socket_options server_side;
  server_side.server = curve_server{server_keys->secret_key, std::string(self_test_domain)};
  auto server = socket::open(state_->ctx, socket_kind::router, server_side);
  if (!server) return fail(std::move(server.error()));
  socket_options client_side;
  client_side.client = curve_client{server_keys->public_key, client_keys->public_key, client_keys->secret_key};
  auto client = socket::open(state_->ctx, socket_kind::dealer, client_side);
  if (!client) return fail(std::move(client.error()));
  auto monitor = link_monitor::watch(*client);
  if (!monitor) return fail(std::move(monitor.error()));
  auto bound = server->bind("tcp://127.0.0.1:0");
  if (!bound) return fail(std::move(bound.error()));
  if (auto connected = client->connect(*bound); !connected) return connected;

  poller waiting;
  waiting.add(monitor->events());
  const auto end = std::chrono::steady_clock::now() + limits::handshake_timeout;
  while (std::chrono::steady_clock::now() < end) {
    waiting.wait(end - std::chrono::steady_clock::now());
    while (auto event = monitor->next()) {
      if (event->kind == link_event_kind::refused) return {};
      if (event->kind == link_event_kind::ready) {
        return fail(errc::internal, "the key check let a random key in; this build of libzmq cannot be trusted");
      }
    }
  }
  return fail(errc::timeout, "the key check did not answer its self-test");
}

}  // namespace troupe::wire
