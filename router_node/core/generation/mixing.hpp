// The mixing function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014;
// constants of Stafford's variant 13). mixed(key + i * mixing_gamma), i = 1, 2, ... is that generator's i-th number.
#pragma once

#include <cstdint>

namespace troupe::router {

inline constexpr std::uint64_t mixing_gamma = 0x9e3779b97f4a7c15;

// A bijection of 64-bit numbers in which every bit of the result depends on every bit of `x`.
[[nodiscard]] constexpr std::uint64_t mixed(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace troupe::router
