// Who may say what to whom inside the coordinator: the message map of this component.
//
//   control socket thread ──core_event, ask──> COORDINATOR ──write_records──> STORE (detached: it waits for the disk)
//   heartbeat thread ───────core_event───────>      │     <──records_written──
//                                                   ├────read_folder───> FOLDER (detached: it reads weights)
//                                                   │     <──folder_read──────
//                                                   └──> coordinator_ports: sockets, heartbeat table, log
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <caf/replies_to.hpp>
#include <caf/type_id.hpp>
#include <caf/typed_actor.hpp>

#include "common/error.hpp"
#include "coordinator/core/events.hpp"
#include "coordinator/core/output.hpp"
#include "coordinator/shell/ports.hpp"

namespace troupe::coordinator {

struct core_event {
  event what;
};
enum class question_kind : std::uint8_t {
  status = 1,
  nodes = 2,
  experts = 3,
  events = 4,
  operations = 5,
  history = 6,
  explanation = 7,
  refreshes = 8
};
struct ask {
  query_origin from;
  question_kind kind{question_kind::status};
  std::string layer;
  std::string node;
  std::uint64_t events_after{};
  std::string expert{};
};
struct make_pass {};
struct tick_now {};
struct write_records {
  std::uint64_t ticket{};
  std::vector<store_record> records;
};
struct records_written {
  std::uint64_t ticket{};
  std::optional<error> failure;
};
struct read_folder {
  std::string folder;
};
struct folder_read {
  result<std::vector<found_expert>> found;
};
struct stop_coordinator {};
struct stopped {};

}  // namespace troupe::coordinator

// Blocks of type ids: coordinator 200-299, expert node 300-399, router 400-499.
CAF_BEGIN_TYPE_ID_BLOCK(troupe_coordinator, 200)
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::core_event))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::ask))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::make_pass))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::tick_now))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::write_records))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::records_written))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::stop_coordinator))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::stopped))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::read_folder))
CAF_ADD_TYPE_ID(troupe_coordinator, (troupe::coordinator::folder_read))
CAF_END_TYPE_ID_BLOCK(troupe_coordinator)

// None of them ever leaves the process.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::core_event)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::ask)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::make_pass)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::tick_now)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::write_records)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::records_written)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::read_folder)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::folder_read)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::stop_coordinator)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::coordinator::stopped)

namespace troupe::coordinator {

using store_actor = caf::typed_actor<
    // coordinator: all or nothing, synced when answered
    caf::replies_to<write_records>::with<records_written>>;

using folder_actor = caf::typed_actor<
    // coordinator: what a checkpoint folder offers for a refresh, or why it is refused
    caf::replies_to<read_folder>::with<folder_read>>;

using coordinator_actor = caf::typed_actor<
    // socket threads: something arrived for the core
    caf::reacts_to<core_event>,
    // control socket thread: a document, answered through coordinator_ports
    caf::reacts_to<ask>,
    // INTERNAL: everything that came in meanwhile has been taken in; make one pass
    caf::reacts_to<make_pass>,
    // INTERNAL: time goes by
    caf::reacts_to<tick_now>,
    // main: no more ticks, then end
    caf::replies_to<stop_coordinator>::with<stopped>>;

}  // namespace troupe::coordinator
