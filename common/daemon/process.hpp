// What a process tells the system about itself. Any thread.
#pragma once

#include <cstdint>
#include <string_view>

namespace troupe::daemon {

// What `ps` and `top` show for the calling thread (the first 15 bytes count).
void set_process_name(std::string_view name);

// For work that may wait while tokens are computed: from here on the calling thread, and those that it starts, give way to
// threads that serve (nice 5: a third of their weight on a busy core).
void yield_to_serving();

// Tells systemd, when it is there (NOTIFY_SOCKET): "READY=1", "STOPPING=1", "STATUS=...". Without it nothing happens.
// false when it is there and could not be told.
bool notify_service(std::string_view state);

// Memory of this process that is in RAM now; 0 when the system does not say.
[[nodiscard]] std::uint64_t resident_set_bytes();

}  // namespace troupe::daemon
