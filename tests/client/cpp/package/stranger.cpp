// Catches the library's exception across its border: no cluster is there.
#include <cstdio>
#include <troupe/client.hpp>

int main() {
  try {
    auto cluster = troupe::client::cluster::connect(
        {.addresses = {}, .data_dir = "/nonexistent", .key_file = {}, .timeout = std::chrono::milliseconds{100}});
  } catch (const troupe::client::error& problem) {
    std::puts(problem.what());
    return problem.code() == troupe::client::error_code::unavailable && problem.retryable() ? 0 : 1;
  }
  return 1;
}
