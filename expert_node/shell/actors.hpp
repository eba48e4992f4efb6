// Who may say what to the expert host: the message map of this component.
//
// Messages carry handles, numbers and names; tensor bytes stay where the handle points.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <caf/replies_to.hpp>
#include <caf/type_id.hpp>
#include <caf/typed_actor.hpp>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "compute/device.hpp"
#include "expert_node/core/expert_call.hpp"
#include "expert_node/core/slot_table.hpp"
#include "expert_node/shell/device_memory.hpp"
#include "expert_node/shell/host_ports.hpp"

namespace troupe::expert {

struct host_facts {
  std::shared_ptr<device_memory> memory;
  compute::device_info device;
  std::uint32_t slots{};
  std::uint64_t slot_bytes{};
};

struct start_host {};
struct host_started {
  result<host_facts> facts;
};
struct serve_call {
  call_handle call;
};
struct run_next {};
struct load_expert {
  term_number term;
  load_job job;
};
struct free_slot {
  term_number term;
  slot_index slot;
  slot_content content;
};
struct slot_loaded {
  slot_index slot;
  std::shared_ptr<const model::bundle_layout> layout;
  loaded_facts facts;
  std::shared_ptr<const compute::probe_sample> sample;  // none: not probed (weights that are not finite, allowed)
};
struct load_failed {
  slot_index slot;
  error reason;
};
struct slot_unloaded {
  slot_index slot;
};
struct pin_expert {
  slot_content content;
};
struct pinned_expert {
  std::optional<slot_index> slot;  // none: not served here
  std::shared_ptr<const model::bundle_layout> layout;
};
struct unpin_slot {
  slot_index slot;
};
struct report_inventory {};
struct report_statistics {};
struct reset_statistics {};
struct stop_host {};
struct host_stopped {};

}  // namespace troupe::expert

// Blocks of type ids: coordinator 200-299, expert node 300-399, router 400-499.
CAF_BEGIN_TYPE_ID_BLOCK(troupe_expert, 300)
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::start_host))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::host_started))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::serve_call))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::run_next))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::load_expert))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::free_slot))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::slot_loaded))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::load_failed))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::slot_unloaded))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::pin_expert))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::pinned_expert))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::unpin_slot))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::report_inventory))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::report_statistics))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::reset_statistics))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::stop_host))
CAF_ADD_TYPE_ID(troupe_expert, (troupe::expert::host_stopped))
CAF_END_TYPE_ID_BLOCK(troupe_expert)

// None of them ever leaves the process.
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::start_host)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::host_started)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::serve_call)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::run_next)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::load_expert)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::free_slot)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::slot_loaded)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::load_failed)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::slot_unloaded)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::pin_expert)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::pinned_expert)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::unpin_slot)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::report_inventory)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::report_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::reset_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::stop_host)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::expert::host_stopped)

namespace troupe::expert {

using expert_host_actor = caf::typed_actor<
    // node: makes the device and its arena on the host's own thread
    caf::replies_to<start_host>::with<host_started>,
    // socket thread: one validated call; answered through host_ports
    caf::reacts_to<serve_call>,
    // INTERNAL: everything that came in meanwhile is queued now; compute one batch
    caf::reacts_to<run_next>,
    // coordinator link: bring this expert into that slot
    caf::reacts_to<load_expert>,
    // coordinator link: empty that slot once nothing uses it
    caf::reacts_to<free_slot>,
    // loader: verified bytes are in the slot; probe, then serve
    caf::reacts_to<slot_loaded>,
    // loader: the slot is empty, and why
    caf::reacts_to<load_failed>,
    // loader: the slot's memory is empty
    caf::reacts_to<slot_unloaded>,
    // peer server: keep this expert where it is while its bytes are read
    caf::replies_to<pin_expert>::with<pinned_expert>,
    // peer server: done with it
    caf::reacts_to<unpin_slot>,
    // coordinator link: say what is in the slots
    caf::reacts_to<report_inventory>,
    // INTERNAL, each statistics_interval
    caf::reacts_to<report_statistics>,
    // coordinator link: this node joins under a new incarnation, totals begin again
    caf::reacts_to<reset_statistics>,
    // node: finish what is queued, release the device on this thread, end
    caf::replies_to<stop_host>::with<host_stopped>>;

}  // namespace troupe::expert
