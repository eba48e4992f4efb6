// What a process tells the system about itself. Any thread.
#pragma once

#include <cstdint>
#include <string_view>

namespace troupe::daemon {

// What `ps` and `top` show for the calling thread (the first 15 bytes count).
void set_process_name(std::string_view name);

// What a thread does, for the scheduler: where messages wait behind computing, a busy machine idles for want of them.
enum class thread_duty : std::uint8_t {
  messages,    // awake for microseconds: gets a busy CPU at once (slice 0.1 ms)
  computing,   // awake for milliseconds: gives way to messages (slice 4 ms)
  background,  // loads experts: has a third of their weight, too (nicer by 5)
};

// For the calling thread and those that it starts from here on. Needs no right. Slices have an effect from Linux 6.12
// on; a system that refuses leaves the thread as it is.
void take_duty(thread_duty duty);

// Tells systemd, when it is there (NOTIFY_SOCKET): "READY=1", "STOPPING=1", "STATUS=...". Without it nothing happens.
// false when it is there and could not be told.
bool notify_service(std::string_view state);

// Memory of this process that is in RAM now; 0 when the system does not say.
[[nodiscard]] std::uint64_t resident_set_bytes();

}  // namespace troupe::daemon
