// Where the coordinator's records survive a restart. One thread at a time.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "common/error.hpp"
#include "coordinator/core/output.hpp"

namespace troupe::coordinator {

class store {
 public:
  virtual ~store() = default;
  store(const store&) = delete;
  store& operator=(const store&) = delete;

  // Everything that was written. corrupt when it cannot be understood.
  [[nodiscard]] virtual result<durable_state> load() = 0;
  // All or nothing, synced when it returns. no_space when the disk is full; internal for other failures of the disk.
  [[nodiscard]] virtual result<void> write(std::span<const store_record> records) = 0;

 protected:
  store() = default;
};

}  // namespace troupe::coordinator
