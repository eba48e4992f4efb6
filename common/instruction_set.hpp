// What loops that are compiled for several instruction sets may use here. Any thread.
#pragma once

namespace troupe {

// AVX-512 as every processor since Skylake-SP has it: F, BW, DQ and VL.
[[nodiscard]] inline bool has_avx512() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has;
#else
  return false;
#endif
}

}  // namespace troupe
