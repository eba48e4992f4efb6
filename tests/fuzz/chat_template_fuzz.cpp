// A template and the messages that it goes through, divided by a NUL: whatever comes in, a text, or an error with one.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/chat_template/chat_template.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const auto border = input.find('\0');
  const auto messages =
      border == std::string_view::npos ? R"([{"role": "user", "content": "Hi"}])" : input.substr(border + 1);
  const auto made = troupe::model::chat_template::parse(input.substr(0, border), R"({"bos_token": "<s>"})");
  if (!made) {
    if (made.error().message.empty()) std::abort();
    return 0;
  }
  const auto text = (*made)->render(messages, true);
  if (!text && text.error().code != troupe::errc::invalid_request) std::abort();
  return 0;
}
