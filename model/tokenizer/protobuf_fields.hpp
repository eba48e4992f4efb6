// Walks over the fields of one protobuf message in memory, bounded by its end (protobuf.dev, "Encoding").
#pragma once

#include <cstdint>
#include <string_view>

namespace troupe::model {

class protobuf_fields {
 public:
  explicit protobuf_fields(std::string_view message) : rest_(message) {}

  // Moves to the next field; false at the end and where the message is damaged.
  [[nodiscard]] bool next();
  [[nodiscard]] bool is_damaged() const { return damaged_; }

  [[nodiscard]] std::uint32_t number() const { return number_; }
  // Of the current field; empty or 0 when it has another wire type.
  [[nodiscard]] std::string_view bytes() const { return bytes_; }
  [[nodiscard]] std::uint64_t integer() const { return integer_; }
  [[nodiscard]] float real() const;

 private:
  bool take_varint(std::uint64_t& value);
  bool take_fixed(std::size_t bytes);
  bool damage();

  std::string_view rest_;
  std::uint32_t number_{};
  std::string_view bytes_;
  std::uint64_t integer_{};
  bool damaged_{};
};

}  // namespace troupe::model
