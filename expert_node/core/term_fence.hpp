// Commands of a coordinator that has been replaced must not change anything. Belongs to the host.
#pragma once

#include <algorithm>

#include "common/ids.hpp"

namespace troupe::expert {

class term_fence {
 public:
  // False: `term` is older than one that was seen.
  [[nodiscard]] bool admit(term_number term) {
    if (term < newest_) return false;
    newest_ = term;
    return true;
  }
  [[nodiscard]] term_number newest() const { return newest_; }

 private:
  term_number newest_;
};

}  // namespace troupe::expert
