#include "cli/progress.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::cli {
namespace {

constexpr std::uint64_t bar_cells = 30;

}  // namespace

progress::progress(std::ostream& out, std::string what, bool terminal, time_point now)
    : out_{out}, what_{std::move(what)}, terminal_{terminal}, begin_{now}, last_line_{now} {}

progress::~progress() {
  if (drawn_) out_ << '\n' << std::flush;
}

void progress::update(std::uint64_t done, std::uint64_t total, time_point now) {
  if (total == 0) return;
  const double seconds = std::chrono::duration<double>(now - begin_).count();
  if (terminal_) {
    draw_bar(std::min(done, total), total, seconds);
    return;
  }
  const bool finished = done >= total && (!said_ || last_done_ < total);
  if (said_ && !finished && now - last_line_ < line_interval) return;
  out_ << fmt::format("{}: {} of {}\n", what_, done, total) << std::flush;
  said_ = true;
  last_done_ = done;
  last_line_ = now;
}

void progress::draw_bar(std::uint64_t done, std::uint64_t total, double seconds) {
  const std::uint64_t filled = bar_cells * done / total;
  std::string tail;
  if (done > 0 && seconds > 0) {
    const double rate = static_cast<double>(done) / seconds;
    tail = fmt::format("  {:.0f}/s  {:.0f} s left", rate, static_cast<double>(total - done) / rate);
  }
  out_ << fmt::format("\r{} [{:#<{}}{: <{}}] {}/{}{}\033[K", what_, "", filled, "", bar_cells - filled, done, total,
                      tail)
       << std::flush;
  drawn_ = true;
}

}  // namespace troupe::cli
