// What is in each slot of this node's arena, and who still uses it.
//
//            begin_load              finish_load               begin_free               finish_free
//   empty ───────────────> loading ───────────────> ready ───────────────> freeing ───────────────> empty
//     ^                      │ fail_load              ^ │ pin / unpin          (as soon as the last pin is gone)
//     │      begin_free      v                        └─┘
//     └─────────────────── failed ── begin_load ──> loading
//
// A load that is freed before it has ended goes to `freeing` with the loader counted as a user. Belongs to the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "common/cluster_map.hpp"
#include "common/error.hpp"
#include "common/ids.hpp"
#include "compute/device.hpp"
#include "expert_node/core/expert_call.hpp"

namespace troupe::expert {

// An expert's weights as the coordinator names them.
struct slot_content {
  expert_id expert;
  weights_version version;
  friend auto operator<=>(const slot_content&, const slot_content&) = default;
};

// What a verified load has found out.
struct loaded_facts {
  sha256_digest digest{};
  std::uint64_t bundle_bytes{};    // in the checkpoint
  std::uint64_t resident_bytes{};  // in the slot, packed
  // To the version that this node served then; none: it served none, or had no rows at hand.
  std::optional<compute::output_difference> difference{};
};

struct slot_empty {};
struct slot_loading {
  slot_content content;
};
struct slot_ready {
  slot_content content;
  loaded_facts facts;
  std::uint32_t users{};  // calls in flight and transfers
};
struct slot_failed {
  slot_content content;
  error reason;
  time_point when;
};
struct slot_freeing {
  slot_content content;
  std::uint32_t users{};
};
using slot_state = std::variant<slot_empty, slot_loading, slot_ready, slot_failed, slot_freeing>;

// One line of an inventory.
struct slot_report {
  enum class phase : std::uint8_t { loading, ready, failed, freeing };
  slot_index slot;
  slot_content content;
  phase state{phase::loading};
  std::optional<loaded_facts> facts;  // ready
  std::optional<error> reason;        // failed
};

class slot_table {
 public:
  // What the caller has to do next.
  enum class load_step : std::uint8_t { start, already_so };
  enum class free_step : std::uint8_t { unload_now, wait, already_empty };

  explicit slot_table(std::uint32_t slots);

  // start: hand it to the loader. already_so: that very content is loading or ready there.
  // not_found: no such slot. conflict: the slot holds something else, or the content is in another slot already.
  [[nodiscard]] result<load_step> begin_load(slot_index slot, const slot_content& content);
  // The loader has ended. True: the slot serves (or has failed) now. False: it was freed meanwhile; unload it now.
  // @pre a load of this slot was started and not yet ended
  [[nodiscard]] bool finish_load(slot_index slot, const loaded_facts& facts);
  [[nodiscard]] bool fail_load(slot_index slot, error reason, time_point now);

  // conflict when the slot holds something else. A failed slot is empty at once.
  [[nodiscard]] result<free_step> begin_free(slot_index slot, const slot_content& content);
  // @pre the slot is freeing without users
  void finish_free(slot_index slot);

  // Counts one user of the ready slot that holds `content`; nullopt when this node does not serve it.
  [[nodiscard]] std::optional<slot_index> pin(const slot_content& content);
  // True: it was the last user of a slot that is to be freed; unload it now. @pre pinned
  [[nodiscard]] bool unpin(slot_index slot);

  // A ready slot with the expert in another version.
  [[nodiscard]] std::optional<slot_index> other_version(const slot_content& content) const;

  [[nodiscard]] const slot_state& state(slot_index slot) const { return slots_.at(slot.value); }
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(slots_.size()); }
  [[nodiscard]] std::uint32_t used() const;
  [[nodiscard]] std::uint64_t resident_bytes() const;
  // Every slot that is not empty, in order.
  [[nodiscard]] std::vector<slot_report> inventory() const;

 private:
  [[nodiscard]] result<void> check(slot_index slot) const;

  std::vector<slot_state> slots_;
  std::map<slot_content, slot_index> ready_;
};

}  // namespace troupe::expert
