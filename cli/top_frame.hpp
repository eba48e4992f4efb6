// One frame of `troupe top`. Pure.
#pragma once

#include <cstddef>
#include <string>

#include "cli/render.hpp"

namespace troupe::cli {

struct frame_style {
  std::size_t width{100};  // characters
  std::size_t height{};    // lines; 0: as many as it takes
  bool utf8{true};         // false: plain ASCII
};

// `status`, `operations`: the documents of `status` and `op list`; `placement`: placement_document. Nodes, the heat map
// and the operations under way; ends with a newline. Layers that do not fit are counted, and of more experts than fit
// in a line neighbours share a cell that shows the busiest of them.
[[nodiscard]] std::string top_frame(const json& status, const json& placement, const json& operations,
                                    const frame_style& style);

// How busy an expert is, as one character: by its share over the fair share of its layer's experts (0: nothing, then
// under 1/2, under 1, under 2, from 2).
[[nodiscard]] std::string shade(double times_fair, bool utf8);

}  // namespace troupe::cli
