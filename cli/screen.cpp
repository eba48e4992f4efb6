#include "cli/screen.hpp"

#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <iostream>

namespace troupe::cli {
namespace {

// ANSI: second page on and off, cursor off and on, to the top, erase the rest of the line, of the page.
constexpr std::string_view enter = "\x1b[?1049h\x1b[?25l";
constexpr std::string_view leave = "\x1b[?25h\x1b[?1049l";
constexpr std::string_view home = "\x1b[H";
constexpr std::string_view end_of_line = "\x1b[K";
constexpr std::string_view end_of_page = "\x1b[J";

}  // namespace

std::string_view cut_to(std::string_view line, std::size_t width) {
  std::size_t characters = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const bool begins = (static_cast<unsigned char>(line[i]) & 0xc0U) != 0x80U;
    if (begins && characters++ == width) return line.substr(0, i);
  }
  return line;
}

live_screen::live_screen() {
  ::tcgetattr(STDIN_FILENO, &before_);
  termios quiet = before_;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &quiet);
  std::cout << enter << std::flush;
}

live_screen::~live_screen() {
  std::cout << leave << std::flush;
  ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
}

live_screen::extent live_screen::size() {
  winsize window{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 && window.ws_row > 0;
  return known ? extent{window.ws_col, window.ws_row} : extent{80, 24};
}

void live_screen::draw(std::string_view text) {
  const auto [width, height] = size();
  std::string page{home};
  for (std::size_t line = 0; line + 1 < height && !text.empty(); ++line) {
    const auto end = text.find('\n');
    page.append(cut_to(text.substr(0, end), width)).append(end_of_line).append("\r\n");
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  std::cout << page << end_of_page << std::flush;
}

char live_screen::wait_for_key(std::chrono::milliseconds at_most) {
  pollfd input{STDIN_FILENO, POLLIN, 0};
  if (::poll(&input, 1, static_cast<int>(at_most.count())) <= 0) return 0;
  char key = 0;
  return ::read(STDIN_FILENO, &key, 1) == 1 ? key : 'q';  // the terminal is gone: nobody looks any more
}

}  // namespace troupe::cli
