#include "bench/transfer/giving_node.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

#include "bench/transfer/bare.hpp"
#include "common/limits.hpp"
#include "compute/device.hpp"
#include "expert_node/shell/node_identity.hpp"
#include "expert_node/shell/peer_server.hpp"
#include "model/checkpoint.hpp"

namespace troupe::bench {
namespace {

template <class T>
T must(result<T> value) {
  if (!value) throw std::runtime_error(value.error().message);
  if constexpr (!std::is_void_v<T>) return std::move(*value);
}

// As an expert node opens one: the checkpoint's bytes out of the slot, once per transfer.
result<expert::open_bundle> open_slot(const compute::device& device, std::shared_ptr<const model::bundle_layout> layout,
                                      const expert::peer_server_settings::make_room& make_room) {
  auto buffer = make_room(layout->bytes());
  if (!buffer) return fail(buffer.error());
  if (auto read = device.export_bundle({0}, *layout, buffer->bytes()); !read) return fail(read.error());
  return expert::open_bundle{std::move(layout), std::move(*buffer)};
}

// Never returns: serves until it is killed.
[[noreturn]] void give(const std::filesystem::path& folder, const wire::key_pair& keys, int ready) {
  auto checkpoint = std::make_shared<model::checkpoint>(must(model::checkpoint::open(folder / "model")));
  std::shared_ptr<const model::bundle_layout> layout{checkpoint, checkpoint->model().find({layer_id::of(0), 0})};
  auto device = must(compute::make_cpu_device({.type = dtype::bf16, .threads = 1}));
  must(device->reserve(1, device->slot_bytes(layout->shape)));
  auto bytes = must(expert::bundle_buffer::make(layout->bytes()));
  must(checkpoint->read_bundle(*layout, bytes.bytes()));
  must(device->load({0}, *layout, bytes.bytes()));

  auto context = must(wire::context::make());
  auto zap = must(wire::zap_handler::start(context, folder / "authorized", {}));
  auto identity = std::make_shared<expert::node_identity>(node_id{giver_name}, cluster_name, incarnation_number{1});
  std::vector<std::unique_ptr<expert::peer_server>> servers;
  std::vector<std::unique_ptr<bare_source>> sources;
  std::string said;
  for (auto r : {road::ipc, road::tcp, road::tcp_curve}) {
    auto address = [&](const char* name) {
      return r == road::ipc ? "ipc://" + (folder / name).string() : std::string{"tcp://127.0.0.1:0"};
    };
    const bool is_curve = r == road::tcp_curve;
    expert::peer_server_settings settings;
    settings.context = context;
    settings.address = address("peer.ipc");
    if (is_curve) {
      settings.socket.server =
          wire::curve_server{keys.secret_key, wire::zap_domain(std::array{wire::peer_role::expert})};
    }
    settings.identity = identity;
    settings.open = [&](const expert::slot_content&, const auto& make_room) {
      return open_slot(*device, layout, make_room);
    };
    servers.push_back(must(expert::peer_server::start(std::move(settings))));
    sources.push_back(std::make_unique<bare_source>(address("bare.ipc"), bytes.bytes(), limits::peer_chunk_bytes,
                                                    is_curve ? std::optional{keys} : std::nullopt));
    said += servers.back()->address() + "\n" + sources.back()->address() + "\n";
  }
  if (::write(ready, said.data(), said.size()) < 0) ::_exit(1);
  ::close(ready);
  while (true) ::pause();
}

}  // namespace

giving_node::giving_node(const std::filesystem::path& folder, const wire::key_pair& keys) {
  std::array<int, 2> ends{};
  if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
  process_ = ::fork();
  if (process_ < 0) throw std::runtime_error("cannot fork");
  if (process_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    try {
      give(folder, keys, ends[1]);
    } catch (const std::exception& e) {
      fmt::print(stderr, "the giving node: {}\n", e.what());
    }
    ::_exit(1);
  }
  ::close(ends[1]);
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> ready{::fdopen(ends[0], "r"), &std::fclose};
  std::array<char, 256> line{};
  for (auto& road : addresses_) {
    for (auto* address : {&road.troupe, &road.bare}) {
      if (std::fgets(line.data(), line.size(), ready.get()) == nullptr) {
        throw std::runtime_error("the giving node did not start");
      }
      *address = line.data();
      address->pop_back();
    }
  }
}

giving_node::~giving_node() {
  ::kill(process_, SIGKILL);
  ::waitpid(process_, nullptr, 0);
}

}  // namespace troupe::bench
