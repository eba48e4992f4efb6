#include "coordinator/shell/event_log.hpp"

#include <utility>

#include "common/limits.hpp"

namespace troupe::coordinator {

void event_log::add(operator_event what, std::chrono::system_clock::time_point when) {
  if (entries_.size() == limits::events_kept_max) entries_.pop_front();
  entries_.push_back({++last_id_, when, std::move(what)});
}

}  // namespace troupe::coordinator
