#include "cli/line_editor.hpp"

#include <histedit.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>
#include <iostream>

#include "cli/interrupt.hpp"

namespace troupe::cli {
namespace {

constexpr int history_lines_max = 1000;

struct history_end {
  void operator()(History* lines) const { ::history_end(lines); }
};
struct editor_end {
  void operator()(EditLine* editor) const { ::el_end(editor); }
};

}  // namespace

struct line_editor::terminal {
  explicit terminal(std::filesystem::path file);
  ~terminal();
  terminal(const terminal&) = delete;
  terminal& operator=(const terminal&) = delete;

  static terminal& of(EditLine* editor) {
    void* self = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<terminal*>(self);
  }
  static char* show_prompt(EditLine* editor) { return of(editor).prompt.data(); }
  static int next_character(EditLine* editor, wchar_t* target);

  std::filesystem::path history_file;
  std::unique_ptr<History, history_end> lines;
  std::unique_ptr<EditLine, editor_end> editor;
  std::string prompt;
  int interrupts_before{};
};

line_editor::terminal::terminal(std::filesystem::path file)
    : history_file(std::move(file)), lines(::history_init()), editor(::el_init("troupe", stdin, stdout, stderr)) {
  // Characters of more than one byte are edited as one, also where no locale is set.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  HistEvent event{};
  ::history(lines.get(), &event, H_SETSIZE, history_lines_max);
  ::history(lines.get(), &event, H_SETUNIQUE, 1);
  ::history(lines.get(), &event, H_LOAD, history_file.c_str());
  ::el_set(editor.get(), EL_CLIENTDATA, this);
  ::el_set(editor.get(), EL_PROMPT, &show_prompt);
  ::el_set(editor.get(), EL_EDITOR, "emacs");
  ::el_set(editor.get(), EL_HIST, &::history, lines.get());
  ::el_wset(editor.get(), EL_GETCFN, &next_character);
}

line_editor::terminal::~terminal() {
  HistEvent event{};
  const auto before = ::umask(0077);
  ::history(lines.get(), &event, H_SAVE, history_file.c_str());
  ::umask(before);
}

// libedit's own reader goes on after a signal; this one ends the line.
int line_editor::terminal::next_character(EditLine* editor, wchar_t* target) {
  std::mbstate_t partial{};
  while (true) {
    if (interrupt_count() != of(editor).interrupts_before) {
      errno = EINTR;
      return -1;
    }
    char byte = 0;
    const auto got = ::read(STDIN_FILENO, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return static_cast<int>(got);
    const auto used = std::mbrtowc(target, &byte, 1, &partial);
    if (used == static_cast<std::size_t>(-2)) continue;  // the rest of the character is still to come
    if (used == static_cast<std::size_t>(-1)) {          // not of this locale: left out
      partial = {};
      continue;
    }
    return 1;
  }
}

line_editor::line_editor(const std::filesystem::path& history) {
  if (::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1) terminal_ = std::make_unique<terminal>(history);
}

line_editor::~line_editor() = default;

line_editor::reading line_editor::read(const std::string& prompt) {
  std::string line;
  if (!terminal_) {
    if (!std::getline(std::cin, line)) return {interrupt_count() > 0 ? how::interrupted : how::end_of_input, {}};
    return {how::line, std::move(line)};
  }
  terminal_->prompt = prompt;
  terminal_->interrupts_before = interrupt_count();
  // libedit shows the prompt first and takes the terminal over after; keys typed in between were the kernel's to edit.
  ::el_set(terminal_->editor.get(), EL_PREP_TERM, 1);
  int count = 0;
  const char* typed = ::el_gets(terminal_->editor.get(), &count);
  if (interrupt_count() != terminal_->interrupts_before) {
    std::cout << "^C\n" << std::flush;
    ::el_reset(terminal_->editor.get());
    return {how::interrupted, {}};
  }
  if (typed == nullptr || count <= 0) {
    std::cout << '\n' << std::flush;
    return {how::end_of_input, {}};
  }
  line.assign(typed, static_cast<std::size_t>(count));
  HistEvent event{};
  if (line.find_first_not_of(" \t\n") != std::string::npos) {
    ::history(terminal_->lines.get(), &event, H_ENTER, line.c_str());
  }
  if (line.ends_with('\n')) line.pop_back();
  return {how::line, std::move(line)};
}

}  // namespace troupe::cli
