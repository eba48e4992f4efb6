// Ctrl-C and SIGTERM as a counter that loops look at. Process-wide; install once.
#pragma once

#include <chrono>

namespace troupe::cli {

void install_interrupt_handler();
// How often somebody has asked to stop.
[[nodiscard]] int interrupt_count();
// Was one of them Ctrl-C? (Others are a service manager's.)
[[nodiscard]] bool was_ctrl_c();
// Waits until somebody asks, or the time is over. False when the time is over.
[[nodiscard]] bool wait_for_interrupt(std::chrono::milliseconds at_most);

}  // namespace troupe::cli
