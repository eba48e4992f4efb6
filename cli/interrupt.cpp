#include "cli/interrupt.hpp"

#include <poll.h>
#include <signal.h>

#include <atomic>

namespace troupe::cli {
namespace {

std::atomic<int> requests{0};
std::atomic<bool> ctrl_c{false};
static_assert(std::atomic<int>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = [](int signal) {
    if (signal == SIGINT) ctrl_c.store(true);
    requests.fetch_add(1);
  };
  ::sigemptyset(&action.sa_mask);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

int interrupt_count() { return requests.load(); }
bool was_ctrl_c() { return ctrl_c.load(); }

bool wait_for_interrupt(std::chrono::milliseconds at_most) {
  // A signal ends poll early; one that comes just before it costs at most one round.
  if (interrupt_count() == 0) ::poll(nullptr, 0, static_cast<int>(at_most.count()));
  return interrupt_count() != 0;
}

}  // namespace troupe::cli
