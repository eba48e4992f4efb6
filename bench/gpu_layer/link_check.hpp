// Does a bundle's worth of device memory arrive over a link of GPUs, in one process and between two?
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "compute/gpu_link.hpp"
#include "compute/gpu_runtime.hpp"

namespace troupe::bench {

struct link_ends {
  std::function<result<std::unique_ptr<compute::gpu_runtime>>(std::uint32_t device)> open_runtime;
  std::function<result<std::unique_ptr<compute::gpu_link_backend>>(std::uint32_t device)> open_link;
};

// Sends to itself. What came out, for people.
[[nodiscard]] result<std::string> check_self_send(const link_ends& ends, std::uint32_t device);
// Starts `program second-process cuda:DEVICE+1 --key KEY` and sends to it. not_found: there is no second device.
[[nodiscard]] result<std::string> check_two_processes(const link_ends& ends, std::uint32_t device,
                                                      const std::string& program);
// What that program does: receives and compares.
[[nodiscard]] result<std::string> receive_from_first(const link_ends& ends, std::uint32_t device,
                                                     const std::string& key);

}  // namespace troupe::bench
