// A terminal that is redrawn: its second page, without echo and cursor. Everything is given back at the end. One at a
// time, one thread; standard input and output must be terminals.
#pragma once

#include <termios.h>

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace troupe::cli {

class live_screen {
 public:
  live_screen();
  ~live_screen();
  live_screen(const live_screen&) = delete;
  live_screen& operator=(const live_screen&) = delete;

  struct extent {
    std::size_t width{};
    std::size_t height{};
  };
  [[nodiscard]] static extent size();

  // Replaces what is shown; lines and columns that do not fit are cut.
  void draw(std::string_view text);
  // The key that was pressed; 0: none in time, or a signal came.
  [[nodiscard]] char wait_for_key(std::chrono::milliseconds at_most);

 private:
  termios before_{};
};

// The first `width` characters of UTF-8 text.
[[nodiscard]] std::string_view cut_to(std::string_view line, std::size_t width);

}  // namespace troupe::cli
