// Lines that a person types: with editing and a history on a terminal (libedit), as they come elsewhere. One thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace troupe::cli {

class line_editor {
 public:
  // `history`: kept there (0600) from one session to the next; where it cannot be written, nothing is kept.
  explicit line_editor(const std::filesystem::path& history);
  ~line_editor();
  line_editor(const line_editor&) = delete;
  line_editor& operator=(const line_editor&) = delete;

  enum class how { line, interrupted, end_of_input };
  struct reading {
    how ended{how::end_of_input};
    std::string line;  // without its newline
  };
  // Waits for a line. interrupted: Ctrl-C, the line is thrown away. end_of_input: Ctrl-D, or the end of a pipe.
  // @pre install_interrupt_handler() was called.
  [[nodiscard]] reading read(const std::string& prompt);

 private:
  struct terminal;
  std::unique_ptr<terminal> terminal_;  // null: standard input is none
};

}  // namespace troupe::cli
