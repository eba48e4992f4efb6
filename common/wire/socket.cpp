#include "common/wire/socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <utility>

#include "common/limits.hpp"
#include "common/wire/frame.hpp"
#include "common/wire/framing.hpp"

namespace troupe::wire {
namespace {

constexpr std::string_view ipc_prefix = "ipc://";
constexpr std::string_view tcp_prefix = "tcp://";
constexpr std::int64_t part_bytes_max =
    static_cast<std::int64_t>(std::max(limits::tensor_bytes_max, limits::envelope_bytes_max + preamble_bytes));

int milliseconds(std::chrono::milliseconds duration) { return static_cast<int>(duration.count()); }

int type_number(socket_kind kind) {
  switch (kind) {
    case socket_kind::router:
      return ZMQ_ROUTER;
    case socket_kind::dealer:
      return ZMQ_DEALER;
    case socket_kind::pair:
      return ZMQ_PAIR;
    case socket_kind::rep:
      return ZMQ_REP;
  }
  return -1;
}

// Sets options and keeps the first failure.
class option_setter {
 public:
  explicit option_setter(void* handle) : handle_(handle) {}
  option_setter& number(int option, int value, const char* name) { return raw(option, &value, sizeof value, name); }
  option_setter& number64(int option, std::int64_t value, const char* name) {
    return raw(option, &value, sizeof value, name);
  }
  option_setter& text(int option, const std::string& value, const char* name) {
    return raw(option, value.data(), value.size(), name);
  }
  [[nodiscard]] result<void> done() { return std::move(outcome_); }

 private:
  option_setter& raw(int option, const void* value, std::size_t size, const char* name) {
    if (outcome_) outcome_ = zmq_check(zmq_setsockopt(handle_, option, value, size), name);
    return *this;
  }
  void* handle_;
  result<void> outcome_;
};

result<void> set_common_options(void* handle, socket_kind kind, const socket_options& options) {
  option_setter set(handle);
  set.number64(ZMQ_MAXMSGSIZE, part_bytes_max, "ZMQ_MAXMSGSIZE")
      .number(ZMQ_SNDHWM, limits::queued_messages_max, "ZMQ_SNDHWM")
      .number(ZMQ_RCVHWM, limits::queued_messages_max, "ZMQ_RCVHWM")
      .number(ZMQ_LINGER, milliseconds(limits::linger), "ZMQ_LINGER")
      .number(ZMQ_HANDSHAKE_IVL, milliseconds(limits::handshake_timeout), "ZMQ_HANDSHAKE_IVL")
      .number(ZMQ_HEARTBEAT_IVL, milliseconds(limits::link_heartbeat_interval), "ZMQ_HEARTBEAT_IVL")
      .number(ZMQ_HEARTBEAT_TIMEOUT, milliseconds(limits::link_heartbeat_timeout), "ZMQ_HEARTBEAT_TIMEOUT")
      .number(ZMQ_RECONNECT_IVL, milliseconds(limits::reconnect_interval_min), "ZMQ_RECONNECT_IVL")
      .number(ZMQ_RECONNECT_IVL_MAX, milliseconds(limits::reconnect_interval_max), "ZMQ_RECONNECT_IVL_MAX")
      .number(ZMQ_CONNECT_TIMEOUT, milliseconds(limits::connect_timeout), "ZMQ_CONNECT_TIMEOUT")
      .number(ZMQ_TCP_MAXRT, milliseconds(limits::tcp_retransmit_timeout), "ZMQ_TCP_MAXRT");
  // Refuse what cannot be delivered instead of queueing it for a dead peer or dropping it silently. ROUTER_HANDOVER
  // stays off: it would let any peer take over another one's routing id.
  if (kind == socket_kind::dealer) set.number(ZMQ_IMMEDIATE, 1, "ZMQ_IMMEDIATE");
  if (kind == socket_kind::router) set.number(ZMQ_ROUTER_MANDATORY, 1, "ZMQ_ROUTER_MANDATORY");
  if (!options.routing_id.empty()) set.text(ZMQ_ROUTING_ID, options.routing_id, "ZMQ_ROUTING_ID");
  return set.done();
}

result<void> set_curve_options(void* handle, const socket_options& options) {
  option_setter set(handle);
  if (options.server) {
    if (options.server->zap_domain.empty()) {
      return fail(errc::invalid_request, "a CURVE server socket needs a ZAP domain; without one any key is let in");
    }
    set.number(ZMQ_CURVE_SERVER, 1, "ZMQ_CURVE_SERVER")
        .text(ZMQ_CURVE_SECRETKEY, options.server->secret_key, "ZMQ_CURVE_SECRETKEY")
        .text(ZMQ_ZAP_DOMAIN, options.server->zap_domain, "ZMQ_ZAP_DOMAIN");
  }
  if (options.client) {
    set.text(ZMQ_CURVE_SERVERKEY, options.client->server_key, "ZMQ_CURVE_SERVERKEY")
        .text(ZMQ_CURVE_PUBLICKEY, options.client->public_key, "ZMQ_CURVE_PUBLICKEY")
        .text(ZMQ_CURVE_SECRETKEY, options.client->secret_key, "ZMQ_CURVE_SECRETKEY");
  }
  return set.done();
}

// libzmq unlinks whatever is at an ipc path before it binds, even the socket of a living process.
result<void> make_way_for_ipc(const std::string& path) {
  sockaddr_un address{};
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return fail(errc::invalid_request, fmt::format("the socket path '{}' has {} bytes; it must have 1 to {}: choose a "
                                                   "shorter --run-dir",
                                                   path, path.size(), sizeof address.sun_path - 1));
  }
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return {};
  if (!S_ISSOCK(info.st_mode)) {
    return fail(errc::conflict, fmt::format("{} exists and is no socket; remove it or choose another --run-dir", path));
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (probe < 0) return fail(errc::internal, fmt::format("socket: {}", std::strerror(errno)));
  const int rc = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  const int failure = rc == 0 ? 0 : errno;
  ::close(probe);
  // Anything but a refusal means that somebody listens (EAGAIN: with a full queue).
  if (failure != ECONNREFUSED && failure != ENOENT) {
    return fail(errc::conflict,
                fmt::format("{} is in use by a running process; stop it or choose another --run-dir", path));
  }
  ::unlink(path.c_str());
  return {};
}

tl::unexpected<error> bind_failure(std::string_view endpoint, int code) {
  if (code == EADDRINUSE && endpoint.starts_with(tcp_prefix)) {
    const auto port = endpoint.substr(endpoint.rfind(':') + 1);
    return fail(errc::conflict, fmt::format("port {} already in use ({}); set --listen", port, endpoint));
  }
  if (code == EADDRINUSE) return fail(errc::conflict, fmt::format("{} already in use; set --listen", endpoint));
  if (code == EINVAL || code == EPROTONOSUPPORT || code == ENODEV || code == EADDRNOTAVAIL) {
    return fail(errc::invalid_request,
                fmt::format("cannot listen on '{}': {}; write tcp://ADDRESS:PORT with an address of this machine, or "
                            "ipc:///PATH",
                            endpoint, zmq_strerror(code)));
  }
  return fail(errc::invalid_request,
              fmt::format("cannot listen on '{}': {}; set --listen", endpoint, zmq_strerror(code)));
}

// libzmq takes the port modulo 65536.
result<void> check_port(std::string_view endpoint) {
  if (!endpoint.starts_with(tcp_prefix)) return {};
  const auto text = endpoint.substr(std::min(endpoint.rfind(':') + 1, endpoint.size()));
  std::uint32_t port = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (code == std::errc{} && end == text.data() + text.size() && port <= 65'535) return {};
  return fail(errc::invalid_request,
              fmt::format("'{}' ends in no port between 0 and 65535; write tcp://ADDRESS:PORT", endpoint));
}

result<void> allow_ipv6(void* handle, std::string_view endpoint) {
  if (!endpoint.starts_with(tcp_prefix) || endpoint.find('[') == std::string_view::npos) return {};
  return option_setter(handle).number(ZMQ_IPV6, 1, "ZMQ_IPV6").done();
}

std::optional<link_event_kind> event_kind(std::uint16_t event) {
  switch (event) {
    case ZMQ_EVENT_CONNECTED:
    case ZMQ_EVENT_ACCEPTED:
      return link_event_kind::connected;
    case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
      return link_event_kind::ready;
    case ZMQ_EVENT_DISCONNECTED:
      return link_event_kind::disconnected;
    case ZMQ_EVENT_CLOSED:
      return link_event_kind::connect_failed;
    case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
      return link_event_kind::refused;
    case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
    case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
      return link_event_kind::handshake_failed;
    default:
      return std::nullopt;
  }
}

constexpr int watched_events = ZMQ_EVENT_CONNECTED | ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
                               ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH |
                               ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL;

}  // namespace

result<void> zmq_check(int rc, std::string_view call) {
  if (rc != -1) return {};
  return fail(errc::internal, fmt::format("{} failed: {}", call, zmq_strerror(zmq_errno())));
}

// -- context ------------------------------------------------------------------------------------------------------

result<std::shared_ptr<context>> context::make(int io_threads) {
  if (zmq_has("curve") == 0) {
    return fail(errc::internal, "this libzmq was built without CURVE; install Debian's libzmq5");
  }
  void* handle = zmq_ctx_new();
  if (handle == nullptr) return fail(errc::internal, fmt::format("zmq_ctx_new: {}", zmq_strerror(zmq_errno())));
  auto made = std::make_shared<context>(handle);
  if (auto set = zmq_check(zmq_ctx_set(handle, ZMQ_IO_THREADS, io_threads), "ZMQ_IO_THREADS"); !set) {
    return fail(std::move(set.error()));
  }
  return made;
}

context::~context() {
  // Interrupted by a signal it may be called again, and must be, or the I/O threads stay.
  while (zmq_ctx_term(handle_) != 0 && zmq_errno() == EINTR) {
  }
}

// -- socket -------------------------------------------------------------------------------------------------------

socket::socket(std::shared_ptr<context> ctx, void* handle, socket_kind kind)
    : context_(std::move(ctx)), handle_(handle), kind_(kind) {}

socket::socket(socket&& other) noexcept
    : context_(std::move(other.context_)),
      handle_(std::exchange(other.handle_, nullptr)),
      kind_(other.kind_),
      may_have_messages_(other.may_have_messages_),
      ipc_files_(std::move(other.ipc_files_)) {}

socket& socket::operator=(socket&& other) noexcept {
  std::swap(context_, other.context_);
  std::swap(handle_, other.handle_);
  std::swap(kind_, other.kind_);
  std::swap(may_have_messages_, other.may_have_messages_);
  std::swap(ipc_files_, other.ipc_files_);
  return *this;
}

socket::~socket() {
  if (handle_ == nullptr) return;
  for (const auto& file : ipc_files_) {
    struct stat info {};
    const bool is_ours =
        ::lstat(file.path.c_str(), &info) == 0 && info.st_dev == file.device && info.st_ino == file.inode;
    if (is_ours) ::unlink(file.path.c_str());
  }
  [[maybe_unused]] const int rc = zmq_close(handle_);
  assert(rc == 0);
}

result<socket> socket::open(std::shared_ptr<context> ctx, socket_kind kind, const socket_options& options) {
  void* handle = zmq_socket(ctx->handle(), type_number(kind));
  if (handle == nullptr) return fail(errc::internal, fmt::format("zmq_socket: {}", zmq_strerror(zmq_errno())));
  socket made(std::move(ctx), handle, kind);
  if (auto set = set_common_options(handle, kind, options); !set) return fail(std::move(set.error()));
  if (auto set = set_curve_options(handle, options); !set) return fail(std::move(set.error()));
  return made;
}

result<std::string> socket::bind(std::string_view endpoint) {
  const std::string text(endpoint);
  const bool is_ipc = endpoint.starts_with(ipc_prefix);
  const std::string path = is_ipc ? text.substr(ipc_prefix.size()) : std::string{};
  if (auto checked = check_port(endpoint); !checked) return fail(std::move(checked.error()));
  if (is_ipc) {
    if (auto way = make_way_for_ipc(path); !way) return fail(std::move(way.error()));
  }
  if (auto set = allow_ipv6(handle_, endpoint); !set) return fail(std::move(set.error()));
  note_use();
  if (zmq_bind(handle_, text.c_str()) != 0) return bind_failure(endpoint, zmq_errno());
  if (is_ipc) {
    if (auto guarded = guard_ipc_file(path); !guarded) return fail(std::move(guarded.error()));
  }
  std::array<char, 512> bound{};
  std::size_t size = bound.size();
  if (auto got = zmq_check(zmq_getsockopt(handle_, ZMQ_LAST_ENDPOINT, bound.data(), &size), "ZMQ_LAST_ENDPOINT");
      !got) {
    return fail(std::move(got.error()));
  }
  return std::string(bound.data());
}

result<void> socket::guard_ipc_file(const std::string& path) {
  struct stat info {};
  if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::lstat(path.c_str(), &info) != 0) {
    return fail(errc::internal, fmt::format("cannot protect {}: {}", path, std::strerror(errno)));
  }
  ipc_files_.push_back({path, info.st_dev, info.st_ino});
  return {};
}

result<void> socket::connect(std::string_view endpoint) {
  if (auto checked = check_port(endpoint); !checked) return checked;
  if (auto set = allow_ipv6(handle_, endpoint); !set) return set;
  const std::string text(endpoint);
  note_use();
  if (zmq_connect(handle_, text.c_str()) == 0) return {};
  return fail(errc::invalid_request, fmt::format("cannot connect to '{}': {}; write tcp://HOST:PORT or ipc:///PATH",
                                                 endpoint, zmq_strerror(zmq_errno())));
}

result<void> socket::disconnect(std::string_view endpoint) {
  const std::string text(endpoint);
  note_use();
  if (zmq_disconnect(handle_, text.c_str()) == 0) return {};
  return fail(errc::not_found, fmt::format("not connected to '{}': {}", endpoint, zmq_strerror(zmq_errno())));
}

bool wait_writable(const socket& s, std::chrono::nanoseconds timeout) {
  const auto rounded = std::chrono::ceil<std::chrono::milliseconds>(std::max(timeout, std::chrono::nanoseconds{0}));
  zmq_pollitem_t item{s.handle(), 0, ZMQ_POLLOUT, 0};
  s.note_use();
  return zmq_poll(&item, 1, rounded.count()) > 0;
}

// -- wake_signal --------------------------------------------------------------------------------------------------

result<wake_signal> wake_signal::make() {
  const int descriptor = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (descriptor < 0) return fail(errc::internal, fmt::format("eventfd: {}", std::strerror(errno)));
  return wake_signal(descriptor);
}

wake_signal::wake_signal(wake_signal&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}

wake_signal& wake_signal::operator=(wake_signal&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

wake_signal::~wake_signal() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void wake_signal::wake() const {
  // A full counter (EAGAIN) is a wake-up that is pending already.
  const std::uint64_t one = 1;
  while (::write(descriptor_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void wake_signal::clear() const {
  std::uint64_t count = 0;
  while (::read(descriptor_, &count, sizeof count) < 0 && errno == EINTR) {
  }
}

// -- link_monitor -------------------------------------------------------------------------------------------------

result<link_monitor> link_monitor::watch(socket& target) {
  static std::atomic<std::uint64_t> next_number{0};
  const auto name = fmt::format("inproc://link-monitor-{}", next_number.fetch_add(1));
  if (auto made = zmq_check(zmq_socket_monitor(target.handle(), name.c_str(), watched_events), "zmq_socket_monitor");
      !made) {
    return fail(std::move(made.error()));
  }
  auto events = socket::open(target.shared_context(), socket_kind::pair);
  if (!events) return fail(std::move(events.error()));
  auto set = option_setter(events->handle()).number(ZMQ_RCVHWM, limits::link_events_max, "ZMQ_RCVHWM").done();
  if (!set) return fail(std::move(set.error()));
  if (auto connected = events->connect(name); !connected) return fail(std::move(connected.error()));
  return link_monitor(target.handle(), std::move(*events));
}

link_monitor::~link_monitor() {
  if (events_.handle() != nullptr) zmq_socket_monitor(target_, nullptr, 0);
}

std::optional<link_event> link_monitor::next() {
  while (true) {
    frame head;
    events_.note_use();
    if (zmq_msg_recv(head.handle(), events_.handle(), ZMQ_DONTWAIT) < 0) {
      events_.note_empty();
      return std::nullopt;
    }
    frame address;
    if (zmq_msg_more(head.handle()) == 0 || zmq_msg_recv(address.handle(), events_.handle(), ZMQ_DONTWAIT) < 0) {
      return std::nullopt;
    }
    const auto bytes = std::as_const(head).bytes();
    std::uint16_t event = 0;
    std::uint32_t value = 0;
    if (bytes.size() != sizeof event + sizeof value) continue;
    std::memcpy(&event, bytes.data(), sizeof event);
    std::memcpy(&value, bytes.data() + sizeof event, sizeof value);
    const auto kind = event_kind(event);
    if (!kind) continue;
    const auto text = std::as_const(address).bytes();
    return link_event{*kind, std::string(reinterpret_cast<const char*>(text.data()), text.size()), value};
  }
}

}  // namespace troupe::wire
