// Collects everything that is wrong with an input, so that a person fixes it in one go: rows "where, expected, found".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.hpp"

namespace troupe::model {

// Text from a file made fit for a message: control characters and bytes that are no UTF-8 replaced, at most 160 bytes.
[[nodiscard]] std::string printable(std::string_view text);

class problem_list {
 public:
  void add(std::string where, std::string expected, std::string found);

  [[nodiscard]] bool empty() const { return rows_.empty(); }
  [[nodiscard]] std::size_t size() const { return rows_.size(); }
  // invalid_request: "SUBJECT: N problems; ADVICE" and below it the table, at most 200 rows of it.
  [[nodiscard]] error to_error(std::string_view subject, std::string_view advice) const;

 private:
  struct row {
    std::string where;
    std::string expected;
    std::string found;
  };
  std::vector<row> rows_;
};

}  // namespace troupe::model
