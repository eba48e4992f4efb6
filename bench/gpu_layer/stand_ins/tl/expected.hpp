// Stands in for Debian's libexpected-dev where scripts/gpu-check builds: the toolkit brings the same type.
#pragma once

#include <cuda/std/expected>

namespace tl {
using cuda::std::expected;
using cuda::std::unexpected;
}  // namespace tl
